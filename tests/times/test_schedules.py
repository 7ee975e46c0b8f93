"""Schedules: monotone, exact ends, the same nodes backwards, partial intervals, refusals."""

import pytest
import torch

from beeline.core.protocols.flows import Schedule
from beeline.times.samplers import At, LogitNormal, UShaped
from beeline.times.samplers import Uniform as UniformTimes
from beeline.times.schedules import (
    Cosine,
    Explicit,
    FluxShifted,
    Karras,
    Power,
    Quantiles,
    ResolutionShifted,
    Shifted,
    Uniform,
    Windows,
)

SCHEDULES = [
    Uniform(),
    Shifted(3.0),
    Shifted(0.5),
    FluxShifted(4096),
    ResolutionShifted(512 * 512),
    Power(2.0),
    Power(0.5),
    Cosine(),
    Karras(),
    Quantiles(LogitNormal()),
    Windows(2, Shifted(2.0)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_times_from_start_to_end(schedule: Schedule) -> None:
    for steps in (2, 8, 40):
        times = schedule(steps)
        assert times.shape == (steps + 1,) and float(times[0]) == 0 and float(times[-1]) == 1
        assert bool((times.diff() > 0).all())
        assert torch.allclose(schedule(steps, 1.0, 0.0), times.flip(0), atol=1e-6)
    part = schedule(6, 0.25, 0.75)
    assert float(part[0]) == 0.25 and float(part[-1]) == 0.75 and bool((part.diff() > 0).all())


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if not isinstance(s, Windows | Karras)], ids=str)
def test_a_partial_schedule_keeps_the_step_density(schedule: Schedule) -> None:
    whole = schedule(12)
    assert torch.allclose(schedule(6, float(whole[3]), float(whole[9])), whole[3:10], atol=2e-5)


def test_resolution_rules() -> None:
    assert FluxShifted(256).shift == pytest.approx(1.6487, abs=1e-4)
    assert FluxShifted(4096).shift == pytest.approx(3.1582, abs=1e-4)
    assert torch.allclose(ResolutionShifted(1024 * 1024)(5), Shifted(3.0)(5))
    sigma = 1 - Uniform()(8).double()
    assert torch.allclose(1 - Shifted(3.0)(8).double(), 3 * sigma / (1 + 2 * sigma), atol=1e-6)


def test_karras_against_its_formula() -> None:
    n, rho = 10, 7
    i = torch.arange(1, n)
    sigma = (80 ** (1 / rho) + i / n * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    assert torch.allclose(Karras()(n)[1:-1], 1 / (1 + sigma), atol=1e-5)


def test_quantiles() -> None:
    assert torch.allclose(Quantiles(UniformTimes())(7), Uniform()(7), atol=1e-6)
    t = Quantiles(LogitNormal(0.3, 0.8))(4).double()[1:-1]
    below = torch.special.ndtr((torch.logit(t) - 0.3) / 0.8)
    assert torch.allclose(below, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), atol=1e-3)
    assert float(Quantiles(UShaped(4.0))(4)[1]) < 0.25


def test_windows_and_explicit() -> None:
    times = Windows(3, Shifted(2.0))(6)
    assert torch.allclose(times[[2, 4]], torch.tensor([1 / 3, 2 / 3]))
    assert torch.allclose(times[:3] * 3, Shifted(2.0)(2))
    part = Windows(4)(2, 0.5, 1.0)
    assert torch.allclose(part, torch.tensor([0.5, 0.75, 1.0]))
    given = Explicit((0.0, 0.2, 0.9, 1.0))
    assert torch.allclose(given(3, 1.0, 0.0), torch.tensor([1.0, 0.9, 0.2, 0.0]))
    assert torch.allclose(given(3, 0.5, 1.0), torch.tensor([0.5, 0.6, 0.95, 1.0]))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        Uniform()(0)
    with pytest.raises(ValueError, match="empty or outside"):
        Uniform()(4, 0.0, 2.0)
    with pytest.raises(ValueError, match="empty or outside"):
        Uniform()(4, 0.5, 0.5)
    with pytest.raises(ValueError, match="Shifted got shift=0"):
        Shifted(0)
    with pytest.raises(ValueError, match="Power got power=0"):
        Power(0)
    with pytest.raises(ValueError, match="0 < low < high"):
        Karras(2.0, 1.0)
    with pytest.raises(ValueError, match="at least one token"):
        FluxShifted(0)
    with pytest.raises(ValueError, match="above 0"):
        ResolutionShifted(0)
    with pytest.raises(ValueError, match="must be a window"):
        Windows(0)
    with pytest.raises(ValueError, match="set a multiple of 4"):
        Windows(4)(6)
    with pytest.raises(ValueError, match="has no density"):
        Quantiles(At(0.5))(4)
    with pytest.raises(ValueError, match="strictly increasing"):
        Explicit((0.0, 0.5, 0.4))
    with pytest.raises(ValueError, match="Explicit got steps=3, but its times define 2"):
        Explicit((0.0, 0.5, 1.0))(3)
    with pytest.raises(ValueError, match="not strictly monotone"):
        Power(30.0)(100)
