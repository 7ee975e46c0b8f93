"""The code in README and CONTRIBUTING, run as printed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import beeline as bl
from beeline.core.rng import Rng
from beeline.core.types import Batch

ROOT = Path(__file__).parent.parent


def blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)


def run(name: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "printed"}
    exec(compile("\n".join(blocks(name)), name, "exec"), space)
    return space


def energy(x: torch.Tensor, y: torch.Tensor) -> float:
    """Energy distance without bias: zero on average when the distributions agree."""
    own = [torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(2 * torch.cdist(x, y).mean() - own[0] - own[1])


def test_the_readme_loop_learns_its_law() -> None:
    space = run("README.md")
    real = space["law"].sample(2000, Rng(1))
    assert energy(space["made"], real) < 0.1 * energy(space["noise"], real)


def test_the_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    for room in re.findall(r"^      (\w+)/ ", text, re.M):
        assert (ROOT / "beeline" / room).is_dir(), room


@pytest.fixture(scope="module")
def contributed() -> dict[str, Any]:
    return run("CONTRIBUTING.md")


def test_the_contributed_path_keeps_its_identities(contributed: dict[str, Any]) -> None:
    path, t = contributed["Smooth"](), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x0, x1 = torch.zeros(5, 2, dtype=torch.float64), torch.ones(5, 2, dtype=torch.float64)
    point = path.point(x0, x1, t)
    torch.testing.assert_close(point.v, (6 * t * (1 - t))[:, None].expand(5, 2))
    torch.testing.assert_close(torch.stack(path.ends(point.x, point.v, t)), torch.stack([x0, x1]))


@pytest.mark.parametrize(("name", "order"), [("KUTTA3", 3), ("TwoStep", 2)])
def test_the_contributed_solvers_have_their_order(contributed: dict[str, Any], name: str, order: int) -> None:
    solver = contributed[name]() if isinstance(contributed[name], type) else contributed[name]
    assert solver.order == order
    start, errors = torch.ones(1, 1, dtype=torch.float64), []
    for steps in (40, 80):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        end = bl.integrate(lambda x, t: -2 * t[:, None] * x * x, start, times, solver)
        errors.append(abs(float(end) - 0.5))  # x = 1 / (1/x0 + t^2)
    assert errors[0] / errors[1] > 2 ** (order - 0.3)


def test_the_contributed_coupling_keeps_data_and_source(contributed: dict[str, Any]) -> None:
    data = Rng(0).normal(torch.empty(4001, 2))
    made = contributed["Mirrored"]()(Batch(data), Rng(1))
    assert made.x1 is data and made.x0.shape == data.shape
    torch.testing.assert_close(made.x0[:2000], -made.x0[2001:])
    assert abs(float(made.x0.std()) - 1) < 0.05
