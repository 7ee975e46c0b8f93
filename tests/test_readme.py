"""The code and the commands in README and CONTRIBUTING, run as printed."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import beeline as bl
from beeline.cli.main import run as cli
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


def test_the_readme_loop_learns_its_distribution() -> None:
    space = run("README.md")
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


@pytest.mark.slow
def test_the_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands of the section on own data, with fewer steps and samples."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (beeline .+)$", text.partition("## Your own data")[2].partition("\n## ")[0], re.M)
    assert len(lines) == 6
    monkeypatch.chdir(tmp_path)
    some = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(some.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(f"photos/{label}/{i}.png")
    rows = [f"{some.integers(18, 80)},{('Oslo', 'Bergen')[i % 2]},{some.integers(0, 9000)}" for i in range(120)]
    (tmp_path / "people.csv").write_text("\n".join(["age,city,income", *rows]))
    small = {
        "train": "--set training.steps=2 --set training.batch_size=8 --set training.early_stopping=none --no-report",
        "distill": "--set training.steps=2 --set training.batch_size=8 --set method.count=16 --no-report",
        "fit-solver": "--noises 8",
        "evaluate": "-n 40",
    }
    for line in lines:
        words = shlex.split(line, comments=True)
        more = small.get(words[1], "") + (" --set network=MLP --set network.width=8" if "photos/" in words else "")
        assert cli([*words[1:], *more.split()]) == 0, line


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
