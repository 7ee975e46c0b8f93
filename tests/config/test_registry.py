"""Components of the user's own: registered, named in files, saved, loaded, and refused."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import beeline as bl
from beeline.config import build as config
from beeline.config import places, registry
from beeline.config.catalogue import CATALOGUE, CUSTOM
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, Point
from beeline.data.modality import ModalityBase
from beeline.runs.run import Run, train


@dataclass(frozen=True)
class OwnSolver:
    """Euler's method."""

    order: int = 1

    def step(self, f: Any, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return x + (s - t).reshape(-1, *[1] * (x.ndim - 1)) * f(x, t), None


@dataclass(frozen=True)
class OwnPath:
    """The straight path."""

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        return Point(x0 + t[:, None] * (x1 - x0), x1 - x0)


@dataclass(frozen=True)
class OwnObjective:
    """The squared error of the velocity."""

    scale: float = 1.0

    def __call__(self, network: Any, batch: Batch, rng: Rng) -> Loss:
        x0, t = rng.fork("x0").normal(batch.x1), rng.fork("t").uniform(len(batch.x1), batch.x1)
        error = (network(x0 + t[:, None] * (batch.x1 - x0), t) - (batch.x1 - x0)).square().mean(1) * self.scale
        return Loss(error.mean(), {}, error.detach(), t)


class OwnNetwork(nn.Module):
    """A linear layer."""

    def __init__(self, shape: tuple[int, ...], width: int = 4):
        super().__init__()
        self.shape, self.width = tuple(shape), width
        self.layers = nn.Sequential(nn.Linear(shape[0] + 1, width), nn.Tanh(), nn.Linear(width, shape[0]))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(torch.cat([x, t[:, None]], 1))
        return out

    def describe(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "width": self.width}


@dataclass(frozen=True)
class OwnModality(ModalityBase):
    """Rows of numbers."""

    shape: tuple[int, ...] = (2,)

    def fit(self, raw: Any) -> "OwnModality":
        return self

    def encode(self, raw: Any) -> Batch:
        return Batch(torch.as_tensor(raw, dtype=torch.float32))

    def decode(self, x: Tensor) -> Any:
        return x.numpy()


@dataclass(frozen=True)
class OwnData:
    """Points on a line."""

    n: int = 40

    def load(self) -> tuple[Any, Any]:
        rows = np.stack([np.linspace(-1, 1, self.n), np.linspace(1, -1, self.n)], 1)
        return rows[::2], rows[1::2]

    def modality(self) -> OwnModality:
        return OwnModality()


OWN = {
    "solvers": OwnSolver,
    "paths": OwnPath,
    "objectives": OwnObjective,
    "networks": OwnNetwork,
    "modalities": OwnModality,
    "data": OwnData,
}


@pytest.fixture
def own() -> Any:
    for kind, target in OWN.items():
        bl.register(kind, target.__name__, target)
    yield
    for full in list(CUSTOM):
        registry.unregister(*full.split("."))


@pytest.mark.parametrize(("kind", "target"), OWN.items())
def test_registered_components_are_described_and_built(own: Any, kind: str, target: Any) -> None:
    part = target((2,)) if target is OwnNetwork else target()
    data = config.describe(part)
    assert data["is"] == f"{kind}.{target.__name__}"
    assert type(config.build(json.loads(json.dumps(data)))) is target
    assert target.__name__ in CATALOGUE[kind]


def test_a_run_of_own_components_is_saved_and_loaded(own: Any, tmp_path: Path) -> None:
    run = Run(
        OwnData(), {"is": "networks.OwnNetwork"}, bl.objectives.FlowMatching(OwnPath()), bl.Training(2, batch_size=8),
        bl.Sampler(4, solver=OwnSolver()),
    )  # fmt: skip
    bundle = train(run, tmp_path / "run", device="cpu")
    text = (tmp_path / "run" / "bundle" / "flow.json").read_text()
    for name in ("networks.OwnNetwork", "paths.OwnPath", "solvers.OwnSolver", "modalities.OwnModality", "data.OwnData"):
        assert f'"{name}"' in text
    again = bl.load(tmp_path / "run", device="cpu")
    assert isinstance(again.sampler.solver, OwnSolver)
    assert np.array_equal(again.sample(3), bundle.sample(3))
    registry.unregister("solvers", "OwnSolver")
    with pytest.raises(BeelineError, match=r"'OwnSolver' is none of the solvers; .*call bl.register\('solvers'"):
        bl.load(tmp_path / "run", device="cpu")


def test_a_decorator_registers_under_the_name_of_the_class(own: Any) -> None:
    @bl.register("schedules")
    @dataclass(frozen=True)
    class Steps:
        first: float = 0.5

    assert config.parse("Steps(0.25)", "schedules") == Steps(0.25)


def test_text_names_the_place(own: Any) -> None:
    registry.unregister("solvers", "OwnSolver")
    found = bl.register("solvers", "Texted", f"{__name__}:OwnSolver")
    assert found is sys.modules[__name__].OwnSolver and config.build({"is": "solvers.Texted"}) == OwnSolver()


def test_a_constant_and_a_function(own: Any) -> None:
    constant = OwnSolver(1)
    bl.register("solvers", "MINE", constant)
    assert config.describe(constant) == {"is": "solvers.MINE"} and config.build({"is": "solvers.MINE"}) is constant
    assert config.describe(OwnSolver(2))["is"] == "solvers.OwnSolver"

    @bl.register("distances", "halved")
    def halved(a: Tensor, b: Tensor) -> Tensor:
        return (a - b) / 2

    assert config.describe(halved) == {"is": "distances.halved"} and config.build({"is": "distances.halved"}) is halved


def test_the_same_class_may_be_registered_again(own: Any) -> None:
    bl.register("solvers", "OwnSolver", OwnSolver)  # a cell of a notebook runs twice


class Mutable:
    pass


@pytest.mark.parametrize(
    ("kind", "name", "target", "message"),
    [
        ("solver", "New", OwnSolver, "no kind of component 'solver'; did you mean 'solvers'"),
        ("solvers", "my solver", OwnSolver, "is no name; give letters"),
        ("solvers", "Picard", OwnSolver, "registered already as beeline.*one meaning; register under another name"),
        ("solvers", "own_solver", Mutable, "registered already as"),
        ("solvers", "Other", OwnSolver, "registered already as solvers.OwnSolver, and a component has one name"),
        ("solvers", "New", Mutable, "neither a frozen dataclass nor .* describe.*; decorate it"),
        (
            "solvers",
            "New",
            "nowhere.solvers:Mine",
            "cannot be imported .No module named 'nowhere'.; check",
        ),
        ("solvers", "New", "beeline:Nothing", "cannot be imported .beeline has no Nothing.; check"),
        ("solvers", "New", "beeline", "names no class in a module; write it as package.module:Class"),
    ],
)
def test_refusals(own: Any, kind: str, name: str, target: Any, message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        bl.register(kind, name, target)


def test_only_registered_components_are_removed() -> None:
    with pytest.raises(BeelineError, match="solvers.Picard was not registered"):
        registry.unregister("solvers", "Picard")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "ownpackage").mkdir()
    source = Path(__file__).read_text().partition("OWN = {")[0].partition('"""\n')[2]
    (tmp_path / "ownpackage" / "__init__.py").write_text("")
    (tmp_path / "ownpackage" / "parts.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "ownpackage.parts:OwnSolver"


def test_a_place_in_a_file_is_refused_unless_its_package_is_trusted(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"is": "samplers.Sampler", "solver": {"is": package}}
    with pytest.raises(BeelineError, match=r"no code that was not allowed; if you trust it, load with trust="):
        config.build(data)
    assert "ownpackage" not in sys.modules
    with places.trusting(("ownpackage",)):
        assert type(config.build(data).solver).__name__ == "OwnSolver"
    with places.trusting(("own",)), pytest.raises(BeelineError, match="not allowed"):
        config.build(data)
    monkeypatch.setenv(places.TRUST, "other, ownpackage")
    assert config.build(data).solver.order == 1
    with pytest.raises(BeelineError, match="give a tuple"), places.trusting("ownpackage"):
        pass


def test_a_bundle_may_name_a_place(package: str, tmp_path: Path, own: Any) -> None:
    from beeline.core.files import write_json
    from beeline.runs.manifest import content

    net = bl.Network(OwnNetwork((2,)))
    bl.Bundle(bl.Flow(net), modality=OwnModality(), sampler=bl.Sampler(2, solver=OwnSolver())).save(tmp_path / "b")
    data = json.loads((tmp_path / "b" / "flow.json").read_text())
    data["sampler"]["solver"]["is"] = package
    write_json(tmp_path / "b" / "flow.json", data | {"content": content(data)})
    with pytest.raises(BeelineError, match="names code of the package 'ownpackage'"):
        bl.load(tmp_path / "b", device="cpu")
    found = bl.load(tmp_path / "b", device="cpu", trust=("ownpackage",))
    assert type(found.sampler.solver).__module__ == "ownpackage.parts" and len(found.sample(2)) == 2
