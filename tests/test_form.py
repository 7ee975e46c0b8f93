"""Structure of the package: order of imports, length of files, and constructs that no file may use."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "beeline").rglob("*.py"))
LONGEST = 400  # lines of a file; about 300 are meant

# folders of the package, lowest first: a folder imports itself and those before it
ORDER = (
    "core paths times couplings fields solvers density spaces networks sampling objectives training distillation data "
    "config evaluation runs hub estimators recipes serving testing cli"
).split()
ALONE = {"training": {"core", "training"}}  # the engine knows no flow
MOST = 14  # files of a folder beside its __init__; about twelve are meant

# comparisons with a text that choose no behaviour; each with its reason
TEXTS = {
    "__main__": "the usual guard of a script",
    "": "whether anything was given, not which",
    "times": "a field of an objective, by its declared name",
    "weight": "a field of an objective, by its declared name",
    "params": "an entry of torch's optimizer groups",
    "classes": "the kind of a condition, as a network describes it in its file",
    "TabularFlow": "a lazy attribute of the package",
    "DataFrame": "pandas is optional, so its class is known by name",
    "cpu": "the type of a torch device is a text",
    "cuda": "the type of a torch device is a text",
}

DRAWS = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "normal", "bernoulli", "multinomial"}
RANDOM = {  # where generators are created from keys, and where the global state is compared
    "beeline/core/rng.py",
    "beeline/core/philox.py",
    "beeline/testing/components.py",
}
SEEDS = {"manual_seed", "seed", "set_rng_state", "random_seed"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def folder(module: str) -> str:
    """The folder of a module of the package, or "" for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def dotted(node: ast.AST) -> str:
    """torch.random.manual_seed as text; "" for other expressions."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def annotations(source: ast.Module) -> set[int]:
    """Nodes of imports under TYPE_CHECKING."""
    return {
        id(inner)
        for node in ast.walk(source)
        if isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }


def import_faults(source: ast.Module, here: str) -> list[str]:
    allowed = ALONE.get(here, set(ORDER[: ORDER.index(here) + 1]) if here else set(ORDER))
    skipped = annotations(source)
    return [
        f"line {node.lineno}: {here} may not import {module}"
        for node in ast.walk(source)
        for module in imported(node)
        if id(node) not in skipped and folder(module) and folder(module) not in allowed
    ]


def imports_of(path: Path, known: set[str]) -> set[str]:
    """The modules that a module of the package imports, also inside functions."""
    source = tree(path)
    skipped = annotations(source)
    found = set()
    for node in ast.walk(source):
        for full in imported(node) if id(node) not in skipped else ():
            found |= {full if full in known else full.rpartition(".")[0]} & known
    return found - {module_of(path)}


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, directly or through others."""
    return sorted(m for m in graph if m in reached(graph, m))


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = set(graph[start])
    while todo:
        seen.add(m := todo.pop())
        todo |= graph.get(m, set()) - seen
    return seen


def text_faults(source: ast.Module) -> list[str]:
    faults = []
    for node in ast.walk(source):
        values: list[ast.expr] = []
        if isinstance(node, ast.Compare) and all(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            values = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            values = [node.value]
        for value in values:
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value not in TEXTS:
                faults.append(f"line {value.lineno}: compares with {value.value!r}; a choice is an object")
    return faults


def loop_faults(source: ast.Module) -> list[str]:
    """Loops that take a solver's step, or use a time and the next one in their body."""
    faults = []
    # a solver may repeat another one's step inside its own: an iteration at one time, not an integration
    own = {
        id(node)
        for method in ast.walk(source)
        if isinstance(method, ast.FunctionDef) and method.name == "step"
        for node in ast.walk(method)
    }
    for loop in ast.walk(source):
        if not isinstance(loop, ast.For | ast.While) or id(loop) in own:
            continue
        inside = [n for part in loop.body for n in ast.walk(part)]
        steps = [n for n in inside if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
        if any(n.func.attr == "step" and len(n.args) + len(n.keywords) >= 4 for n in steps):
            faults.append(f"line {loop.lineno}: takes a solver's steps; call integrate")
        calls = {dotted(n.func).rpartition(".")[2] for n in inside if isinstance(n, ast.Call)}
        if not calls & {"f", "field", "flow", "dynamics", "velocity"}:
            continue
        now = {(dotted(n.value), ast.dump(n.slice)) for n in inside if isinstance(n, ast.Subscript)}
        for n in inside:
            if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.BinOp) and isinstance(n.slice.op, ast.Add):
                if "time" in dotted(n.value) and (dotted(n.value), ast.dump(n.slice.left)) in now:
                    faults.append(f"line {loop.lineno}: iterates over {dotted(n.value)}; call integrate")
    return faults


def random_faults(source: ast.Module) -> list[str]:
    """Calls that read or set a global random state; the initialisation of a Parameter may use torch's."""
    faults = []
    first = {
        id(inner)
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and dotted(node.func).endswith("Parameter")
        for inner in ast.walk(node)
    }
    modules = {module for node in ast.walk(source) for module in imported(node)}
    for node in ast.walk(source):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        owner, _, last = called.rpartition(".")
        own = any(k.arg == "generator" for k in node.keywords)
        if owner.startswith("torch") and (last in SEEDS or (last in DRAWS and not own and id(node) not in first)):
            faults.append(f"line {node.lineno}: {called} uses torch's global random state")
        if called.startswith(("np.random.", "numpy.random.")) and last not in {"Generator", "SeedSequence", "PCG64"}:
            if last != "default_rng" or not node.args:
                faults.append(f"line {node.lineno}: {called} uses numpy's global random state")
        if owner == "random" and "random" in modules:
            faults.append(f"line {node.lineno}: {called} uses Python's global random state")
    return faults


def pickle_faults(source: ast.Module) -> list[str]:
    faults = []
    for node in ast.walk(source):
        for module in imported(node):
            if module.split(".")[0] in {"pickle", "dill", "joblib", "shelve", "cloudpickle", "marshal"}:
                faults.append(f"line {node.lineno}: imports {module}")
        if isinstance(node, ast.Call):
            tensors = any(k.arg == "weights_only" and getattr(k.value, "value", False) is True for k in node.keywords)
            if (
                dotted(node.func) in {"torch.load", "torch.save"} and not tensors
            ):  # published weights are read as tensors
                faults.append(f"line {node.lineno}: {dotted(node.func)} pickles; use safetensors and JSON")
            if any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords):
                faults.append(f"line {node.lineno}: allow_pickle")
    return faults


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    assert not import_faults(tree(path), folder(module_of(path)))


def test_no_import_cycles() -> None:
    modules = {module_of(path): path for path in FILES if path.parent != ROOT / "beeline"}
    assert not cycles({module: imports_of(path, set(modules)) for module, path in modules.items()})


def test_folders_are_small() -> None:
    folders = {path.parent for path in FILES}
    crowded = {name(f): n for f in folders if (n := len([p for p in f.glob("*.py") if p.stem != "__init__"])) > MOST}
    assert not crowded


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if folder(module_of(p)) not in {"cli", "data", "config", "evaluation", "runs", "estimators"}],
    ids=name,
)
def test_no_choice_by_text(path: Path) -> None:
    assert not text_faults(tree(path))


@pytest.mark.parametrize("path", [p for p in FILES if name(p) != "beeline/solvers/integrate.py"], ids=name)
def test_one_integration_loop(path: Path) -> None:
    assert not loop_faults(tree(path))


@pytest.mark.parametrize("path", [p for p in FILES if name(p) not in RANDOM], ids=name)
def test_random_numbers_are_values(path: Path) -> None:
    assert not random_faults(tree(path))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_pickled(path: Path) -> None:
    assert not pickle_faults(tree(path))


def test_no_leftover_files() -> None:
    assert not {"utils", "base", "helpers", "common", "misc"} & {p.stem for p in FILES}


@pytest.mark.parametrize(
    ("faults", "bad", "good"),
    [
        (lambda s: import_faults(s, "core"), "from beeline.sampling.sampler import Sampler", "import torch"),
        (
            lambda s: import_faults(s, "training"),
            "def f():\n    import beeline.networks.dit",
            "import beeline.core.rng",
        ),
        (lambda s: import_faults(s, "data"), "from beeline import config", "from beeline.core import rng"),
        (text_faults, "if kind == 'linear': pass", "if kind == '': pass"),
        (text_faults, "match kind:\n    case 'linear': pass", "match kind:\n    case 3: pass"),
        (loop_faults, "for i in r:\n    x, m = solver.step(f, x, t, s, m)", "for i in r:\n    optimizer.step()"),
        (
            loop_faults,
            "for i in r:\n    x = x + (times[i + 1] - times[i]) * f(x)",
            "for i in r:\n    w = (times[i + 1] - times[i]) * a[i]",
        ),
        (random_faults, "x = torch.randn(3)", "w = nn.Parameter(torch.randn(3))"),
        (random_faults, "torch.manual_seed(0)", "torch.rand(3, generator=g)"),
        (random_faults, "import numpy as np\nnp.random.randn(3)", "import numpy as np\nnp.random.default_rng(key)"),
        (random_faults, "import random\nrandom.shuffle(x)", "rng.normal(x)"),
        (pickle_faults, "torch.load('x.pt')", "load_file('x.safetensors')"),
        (pickle_faults, "import pickle", "import json"),
        (pickle_faults, "np.load('x.npy', allow_pickle=True)", "np.load('x.npy', allow_pickle=False)"),
    ],
)
def test_the_checks_find_faults(faults, bad, good) -> None:  # type: ignore[no-untyped-def]
    assert faults(ast.parse(bad))
    assert not faults(ast.parse(good))
