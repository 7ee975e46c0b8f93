"""The code and the commands on the pages of the documentation, run as printed on small data."""

import ast
import dataclasses
import re
import shlex
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import beeline as bl
from beeline.cli import planning, tuning
from beeline.cli.main import run as cli
from beeline.config.catalogue import CUSTOM
from beeline.config.registry import unregister
from beeline.distillation.fit_solver import Bespoke
from beeline.recipes import training
from beeline.runs.budget import SIZES, Fitted

DOCS = Path(__file__).parent.parent.parent / "docs"
BLOCK = re.compile(
    r"(?P<not_run>^ *<!-- not run: [^\n]+ -->\n+)?^(?P<indent> *)```(?P<kind>python|sh)\n(?P<code>.*?)^ *```",
    re.M | re.S,
)
PAGES = ["../README.md", *sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if BLOCK.search((DOCS / page).read_text(encoding="utf-8"))]

# numbers in the code of the pages that make a run long, and what is run instead
SMALL = (
    (r"Training\((steps=)?[\d_]+", r"Training(\g<1>4"),
    (r"\bsteps=\d{3,}", "steps=4"),
    (r"TabularFlow\(", "TabularFlow(steps=4, width=16, depth=1, "),
    (r"\.distill\(\)", ".distill(steps=4, pairs=64)"),
    (r"Reflow\(", "Reflow(count=32, "),
    (r"OneStep\(", "OneStep(count=32, "),
    (r"\bdim=\d{3,}|\bwidth=\d{3,}", "width=16"),
    (r"range\(\d{4}\)", "range(4)"),
    (r"sample\(\d{3,}", "sample(20"),
)
# options that make a command short
QUICK = "--set training.steps=3 --set training.batch_size=8"
OPTIONS = {
    "train": QUICK + " --no-report",
    "distill": QUICK + " --no-report",
    "adapt": QUICK + " --no-report",
    "fit-solver": "--noises 8",
    "evaluate": "-n 40",
    "compare": "-n 40",
    "compress": "-n 20",
    "demo": "--quick --no-report",
    "verify": "--quick",
}
METHODS = {"reflow": "--set method.count=16", "one-step": "--set method.count=16"}  # of distillation


def blocks(text: str) -> list[tuple[str, str]]:
    """The blocks of a page that are run, as (kind, code)."""
    found = BLOCK.finditer(text)
    return [(b["kind"], re.sub(f"^{b['indent']}", "", b["code"], flags=re.M)) for b in found if not b["not_run"]]


def smaller(code: str) -> str:
    """The code with fewer steps and smaller networks."""
    for pattern, text in SMALL:
        code = re.sub(pattern, text, code)
    return code


def commands(code: str) -> list[list[str]]:
    """The commands of Beeline in a block of the shell, as words."""
    lines = code.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("beeline ")]


def tiny(run: Any, *args: Any, **options: Any) -> Fitted:
    """In place of a fit to a time budget: three steps of a small network."""
    size = SIZES.get(run.network["is"], [{}])[-1]
    few = dataclasses.replace(run.training, steps=3, batch_size=8, microbatches=1, early_stopping=None)
    return Fitted(dataclasses.replace(run, network={**run.network, **size}, training=few), 0.01, 1000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data that the pages name, in which a page runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(training, "fit_budget", tiny)
    monkeypatch.setattr(planning, "fit_budget", tiny)
    monkeypatch.setattr(tuning, "fit_solver", partial(tuning.fit_solver, method=Bespoke(iterations=2)))
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(f"photos/{label}/{i}.png")
    cities = np.array(["Oslo", "Bergen"])[rng.integers(0, 2, 120)]
    people = pd.DataFrame({"age": rng.integers(18, 80, 120), "city": cities, "income": rng.normal(50_000, 9000, 120)})
    people.round(2).to_csv("people.csv", index=False)
    points = rng.normal(size=(200, 2)).astype(np.float32)
    np.savez("points.npz", points=points, labels=(points[:, 0] > 0).astype(np.int64))
    return tmp_path


def names() -> dict[str, Any]:
    """What the pages take as given."""
    rng = np.random.default_rng(1)
    age, sex = rng.integers(18, 80, 160), np.array(["Female", "Male"])[rng.integers(0, 2, 160)]
    income = np.where(age + 10 * (sex == "Male") + rng.normal(0, 8, 160) > 55, ">50K", "<=50K")
    frame = pd.DataFrame({"age": age, "sex": sex, "income": income})
    gaps = frame.astype({"age": float}).mask(rng.random(frame.shape) < 0.2)
    return {
        "__name__": "page",
        "torch": torch,
        "frame": frame,
        "frame_with_gaps": gaps,
        "test": frame.tail(40),
        "transformer": lambda x, timestep: x,
    }


@pytest.fixture
def register_nothing() -> Any:
    """Components that a page registers are removed after it."""
    before = set(CUSTOM)
    yield
    for name in set(CUSTOM) - before:
        unregister(*name.split(".", 1))


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, folder: Path, register_nothing: None, capsys: Any) -> None:
    space = names()
    for kind, code in blocks((DOCS / page).read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(smaller(code), page, "exec"), space)
            continue
        for words in commands(code):
            status = cli(quick(words))
            assert status == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"


def quick(words: list[str]) -> list[str]:
    """The arguments of a command, with options that make it short."""
    verb, *rest = (re.sub(r"^\d{3,}$", "20", word) for word in words[1:])  # numbers of samples
    if verb == "train" and {"--resume", "--fork", "--more"} & set(rest):  # most settings stay as they were
        steps = f"training.steps={5 if '--resume' in rest else 6}"
        words = [re.sub(r"training\.steps=\d+", steps, word) for word in rest]
        return [
            verb,
            *("2" if before == "--more" else w for before, w in zip(["", *words], words, strict=False)),
            "--no-report",
        ]
    network = ["--set", "network.width=16"] if verb == "train" and rest[0] == "digits" else []
    stored = any(word.startswith("method.store=") for word in rest)  # these have their number of pairs
    more = chain(OPTIONS.get(verb, "").split(), *(METHODS.get(word, "").split() for word in rest if not stored))
    return [verb, *rest, *more, *network]


def literals() -> str:
    """All text of messages in the package, with ``...`` in place of values."""
    found = []
    for path in (DOCS.parent / "beeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "..." for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_the_errors_are_messages_of_the_package() -> None:
    shown = re.findall(r"^\| `(.+?)` \|", (DOCS / "reference" / "errors.md").read_text(encoding="utf-8"), re.M)
    known = literals()
    assert len(shown) > 30
    assert [m for m in shown if not all(part.strip() in known for part in m.split("..."))] == []


def test_every_extra_is_on_the_page_of_the_installation() -> None:
    text = (DOCS / "install.md").read_text(encoding="utf-8")
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == list(project["optional-dependencies"])
    assert f"Python {project['requires-python'].removeprefix('>=')} or later" in text
    torch_version = next(d.partition(">=")[2] for d in project["dependencies"] if d.startswith("torch>="))
    assert f"torch {torch_version} or later" in text


def test_the_times_of_diffusers_are_explicit_times() -> None:
    """The loop of diffusers on the page of the migration gives the samples of its translation."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(20)
    noise = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    x = noise
    for timestep in scheduler.timesteps:
        x = scheduler.step(x + timestep / 1000, timestep, x).prev_sample
    times = tuple((1 - scheduler.sigmas.double()).tolist())
    flow = bl.Flow(lambda x, t, cond=None: -(x + (1 - t)[:, None]))
    found = bl.Sampler(20, schedule=bl.schedules.Explicit(times), solver=bl.solvers.EULER)(flow, noise)
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)
