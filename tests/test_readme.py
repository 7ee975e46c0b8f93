"""README and CONTRIBUTING: code as printed, links and figures; tests/docs runs the commands of the README."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from beeline.config import build as config
from beeline.config.catalogue import CUSTOM
from beeline.config.registry import register, unregister
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Flow
from beeline.networks.dit import DiT
from beeline.sampling.guidance.guide import Extrapolate, Guide
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.solvers.runge_kutta import EULER

ROOT = Path(__file__).parent.parent


def blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)


def run(code: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "printed"}
    exec(compile(code, "printed", "exec"), space)
    return space


def energy(x: torch.Tensor, y: torch.Tensor) -> float:
    """Energy distance without bias: zero on average when the distributions agree."""
    own = [torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(2 * torch.cdist(x, y).mean() - own[0] - own[1])


def test_the_readme_loop_learns_its_distribution() -> None:
    space = run(blocks("README.md")[-1])
    real = space["moons"].sample(2000, Rng(1))
    assert energy(space["samples"], real) < 0.1 * energy(space["noise"], real)


def test_the_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    folders = re.findall(r"^      ((?:\w+/ +)+)", text, re.M)
    assert len(folders) == 9
    for folder in " ".join(folders).replace("/", " ").split():
        assert (ROOT / "beeline" / folder).is_dir(), folder
    for file in re.findall(r"`(\w+/\w+\.py)`", text):
        assert (ROOT / "beeline" / file).is_file(), file


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    targets = re.findall(r"^    make (\w+)", text, re.M)
    assert targets and all(f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8") for target in targets)


@pytest.fixture(scope="module")
def contributed() -> dict[str, Any]:
    return run("\n".join(blocks("CONTRIBUTING.md")))


KINDS = {
    "Smooth": "paths",
    "KUTTA3": "solvers",
    "TwoStep": "solvers",
    "Mirrored": "couplings",
    "Clipped": "rules",
    "Scaled": "references",
    "Flat": "references",
    "Bounded": "controllers",
    "Bright": "energies",
    "AbsoluteError": "objectives",
    "Angles": "modalities",
    "ring_smooth": "recipes",
}


def test_the_contributed_path_has_the_slope_of_its_formula(contributed: dict[str, Any]) -> None:
    path, t = contributed["Smooth"](), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x0, x1 = torch.zeros(5, 2, dtype=torch.float64), torch.ones(5, 2, dtype=torch.float64)
    torch.testing.assert_close(path.point(x0, x1, t).v, (6 * t * (1 - t))[:, None].expand(5, 2))


def test_the_contributed_rule_limits_the_change(contributed: dict[str, Any]) -> None:
    strong, weak = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, 0.0]])
    found = contributed["Clipped"](2.0, 1.0).for_run()(strong, weak, strong, torch.zeros(1))
    assert found.tolist() == [[1.5, 4.0]]


def test_the_contributed_attention_is_a_mean(contributed: dict[str, Any]) -> None:
    flat, seen = contributed["Flat"](), []
    with Rng(0).ambient():
        net = DiT((1, 4, 4), width=16, depth=3, heads=2)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    x, t = Rng(1).normal(torch.empty(2, 1, 4, 4)), torch.full((2,), 0.5)
    weak, _ = flat(net, None)
    net.block[1].mix.divided = lambda h, inner=net.block[1].mix.divided: seen.append(inner(h)) or seen[0]
    net.block[1].mix.joined = lambda y, inner=net.block[1].mix.joined: inner(seen[0][2].mean(2, True).expand_as(y))
    torch.testing.assert_close(weak(x, t), net(x, t), atol=1e-5, rtol=1e-4)


def test_the_contributed_parts_of_guidance_steer_a_run(contributed: dict[str, Any]) -> None:
    flow = Flow(lambda x, t, cond=None: 2 - x)
    scaled, bright = contributed["Scaled"](0.5), contributed["Bright"](0.7)
    guided = Guide(scaled, Extrapolate(3.0))(flow.field, None)
    assert guided(torch.ones(1, 1), torch.zeros(1)).tolist() == [[0.0]]  # 1.5 + 3 (1 - 1.5)
    bounded = Sampler(8, solver=EULER, controllers=(contributed["Bounded"](0.5),))
    assert bounded(flow, torch.zeros(1, 1)).tolist() == [[0.5]]
    means = Sampler(50, controllers=(EnergyGuidance(bright),))(flow, torch.zeros(2, 4)).mean(1)
    assert (means - 0.7).abs().max() < (Sampler(50)(flow, torch.zeros(2, 4)).mean(1) - 0.7).abs().max() / 2


def test_the_contributed_components_are_registered_and_described(contributed: dict[str, Any]) -> None:
    try:
        for name, kind in KINDS.items():
            register(kind, name, contributed[name])
        assert contributed["ring_smooth"]().objective.path == contributed["Smooth"]()
        assert config.lookup("recipes", "ring_smooth") is contributed["ring_smooth"]
        for name, kind in KINDS.items():
            part = contributed[name]
            part = part() if isinstance(part, type) else part
            if kind != "recipes":
                assert config.describe(part)["is"] == f"{kind}.{name}"
                assert config.build(config.describe(part)) == part
        described = config.describe(contributed["ring_smooth"]())
        assert described["objective"]["path"] == {"is": "paths.Smooth"}
        assert config.build(described) == contributed["ring_smooth"]()
    finally:
        for name, kind in KINDS.items():
            if f"{kind}.{name}" in CUSTOM:
                unregister(kind, name)


def test_the_table_of_lines_is_counted() -> None:
    """Lines of code of every example, without docstrings, comments and empty lines."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| .+? \| `(\w+)` \| (\d+) \|", text, re.M))
    assert set(stated) == set(KINDS)
    counted = {}
    for node in ast.parse("\n".join(blocks("CONTRIBUTING.md"))).body:
        name = node.targets[0].id if isinstance(node, ast.Assign) else getattr(node, "name", "")  # type: ignore[attr-defined]
        body = [n for n in ast.walk(node) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        for owner in body:  # an unparsed node has no comments
            if ast.get_docstring(owner):
                owner.body = owner.body[1:]
        lines = [line for line in ast.unparse(node).splitlines() if line.strip()]
        counted[name] = len(lines)
    assert {name: counted[name] for name in stated} == {name: int(n) for name, n in stated.items()}


def test_the_contributed_coupling_keeps_data_and_source(contributed: dict[str, Any]) -> None:
    data = Rng(0).normal(torch.empty(4001, 2))
    made = contributed["Mirrored"]()(Batch(data), Rng(1))
    assert made.x1 is data and made.x0.shape == data.shape
    torch.testing.assert_close(made.x0[:2000], -made.x0[2001:])
    assert abs(float(made.x0.std()) - 1) < 0.05
