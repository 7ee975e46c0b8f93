"""The checks of beeline.testing pass for right components and name what is wrong in others."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

import beeline as bl
from beeline import testing
from beeline.config.build import parse
from beeline.core.rng import Rng
from beeline.core.types import Batch, Point
from beeline.data.points import Points, PointSet
from beeline.paths.affine import AffinePath
from beeline.solvers.runge_kutta import RungeKutta


@pytest.mark.parametrize("text", ["Linear()", "Cosine()", "Polynomial(3)", "ConstantAcceleration()", "Interpolant()"])
def test_paths(text: str) -> None:
    testing.check_path(parse(text, "paths"))


def test_a_path_on_a_sphere() -> None:
    x0, x1 = (nn.functional.normalize(Rng(i).normal(torch.empty(64, 3, dtype=torch.float64)), dim=1) for i in (0, 1))
    testing.check_path(parse("Geodesic()", "paths"), x0=x0, x1=x1)


@pytest.mark.parametrize("text", ["Uniform()", "LogitNormal(0.5)", "Mode()", "CosMap()", "UShaped()", "Beta()"])
def test_time_samplers(text: str) -> None:
    testing.check_time_sampler(parse(text, "times"))


@pytest.mark.parametrize("text", ["Uniform()", "Shifted(2)", "Power()", "Cosine()", "Karras()", "Quantiles(Beta())"])
def test_schedules(text: str) -> None:
    testing.check_schedule(parse(text, "schedules"))


@pytest.mark.parametrize("text", ["Independent()", "MinibatchOT()", "Sinkhorn()", "Immiscible()", "PairedOrOT()"])
def test_couplings(text: str) -> None:
    testing.check_coupling(parse(text, "couplings"))


def test_objectives() -> None:
    with Rng(0).ambient():
        net = bl.Network(bl.networks.MLP(2, width=8, depth=1))
    testing.check_objective(bl.objectives.FlowMatching(), net, Batch(Rng(1).normal(torch.empty(8, 2))))


def test_modalities() -> None:
    testing.check_modality(Points(), PointSet(Rng(0).normal(torch.empty(20, 2)).double().numpy()))
    with pytest.raises(AssertionError, match=r"decode\(encode\(raw\)\) is"):
        testing.check_modality(_Lossy((2,)), torch.arange(8).reshape(4, 2).numpy())


@dataclass(frozen=True)
class _Lossy:
    shape: tuple[int, ...]

    def fit(self, raw: Any) -> Any:
        return self

    def encode(self, raw: Any) -> Batch:
        return Batch(torch.as_tensor(raw).float() // 2)

    def decode(self, x: torch.Tensor) -> Any:
        return x.numpy() * 2


@dataclass(frozen=True)
class _Curved(AffinePath):
    """A slope that is not the derivative."""

    def a(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def b(self, t: torch.Tensor) -> torch.Tensor:
        return 1 - t

    def point(self, x0: Any, x1: Any, t: Any, rng: Any = None) -> Point:
        found = super().point(x0, x1, t, rng)
        return Point(found.x, found.v * 1.01)


@dataclass(frozen=True)
class _Short(AffinePath):
    def a(self, t: torch.Tensor) -> torch.Tensor:
        return 0.9 * t

    def b(self, t: torch.Tensor) -> torch.Tensor:
        return 1 - t


@dataclass
class _Changing:
    order: int = 1

    def step(self, f: Any, x: Any, t: Any, s: Any, memory: Any) -> Any:
        return x, None


@dataclass(frozen=True)
class _NoStep:
    order: int = 1


@dataclass(frozen=True)
class _Global:
    independent = True

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        return replace(batch, x0=torch.randn_like(batch.x1))


@dataclass(frozen=True)
class _Reordered:
    independent = True

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        return replace(batch, x0=batch.x1, x1=batch.x1.flip(0))


@dataclass(frozen=True)
class _Times:
    def __call__(self, n: int, like: torch.Tensor, rng: Rng) -> torch.Tensor:
        return rng.uniform(n, like).square()

    def log_prob(self, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(t)


@dataclass(frozen=True)
class _Flat:
    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> torch.Tensor:
        return torch.linspace(start, end, steps + 1).round(decimals=1)


WRONG = [
    (testing.check_path, _Curved(), "v is not the slope of x: the relative error is"),
    (testing.check_path, _Short(), "the path is not at x1 at t = 1"),
    (testing.check_solver_order, RungeKutta(3, ((0.5,),), (0.0, 1.0)), "declares order 3, but .* falls with order 2.0"),
    (testing.check_solver_order, _Changing(), "decorate it with @dataclass.frozen=True"),
    (testing.check_solver_order, _NoStep(), r"_NoStep has no step\(f, x, t, s, memory\), which a Solver needs"),
    (testing.check_coupling, _Global(), "torch's global random state was changed"),
    (testing.check_coupling, _Reordered(), "changed x1 or its order"),
    (testing.check_time_sampler, _Times(), "but log_prob gives"),
    (testing.check_schedule, _Flat(), "are not strictly monotone"),
]


@pytest.mark.parametrize(("check", "part", "message"), WRONG, ids=lambda p: type(p).__name__)
def test_what_is_wrong_is_named(check: Any, part: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(part)
