"""The default sampler: its budget, its error, its choice."""

import pytest
import torch

from beeline.config.build import build, describe
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow
from beeline.sampling.auto import auto_sampler
from beeline.sampling.sampler import Sampler
from beeline.solvers.adaptive import Adaptive
from beeline.solvers.fitted import Fitted
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import AdamsBashforth
from beeline.solvers.presets import PRESETS
from beeline.solvers.runge_kutta import EULER, MIDPOINT, RK4


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 7, 8, 16, 40])
def test_evaluations_stay_within_the_budget(budget: int) -> None:
    sampler = auto_sampler(budget)
    assert sampler.evaluations is not None and 0 < sampler.evaluations <= budget
    assert build(describe(sampler)) == sampler


def test_presets_are_consistent_on_constant_fields_nearly() -> None:
    """Learned weights need not sum to one exactly, but a constant field has to come out within a few percent."""
    for steps, (times, rows, keep) in PRESETS.items():
        solver = Fitted(times, rows, keep)
        assert len(rows) == steps and times[0] == 0 and times[-1] == 1
        assert abs(sum(rows[-1]) - 1) < 0.2 and abs(keep[-1] - 1) < 0.2
        assert solver.order == 1


@pytest.mark.parametrize(
    "distribution", [GaussianMixture.ring(), GaussianMixture(((1.0, 0, 2), (-1, 1, 0), (0, -2, 1)), 0.4)]
)
def test_better_than_alternatives_on_held_out_distributions(distribution: GaussianMixture) -> None:
    flow, x0 = Flow(distribution.field()), Rng(5).normal(torch.empty(512, distribution.dim, dtype=torch.float64))
    exact = integrate(distribution.field(), x0, torch.linspace(0, 1, 81, dtype=torch.float64), RK4)
    error = lambda s: float((s(flow, x0) - exact).square().mean().sqrt())  # noqa: E731
    for budget in (4, 8):
        auto = error(auto_sampler(budget))
        assert auto < 0.8 * error(Sampler(budget // 2, solver=MIDPOINT))
        assert auto < 0.35 * error(Sampler(budget, solver=EULER))


def test_tolerance() -> None:
    sampler = auto_sampler(tolerance=1e-4)
    assert isinstance(sampler.solver, Adaptive) and sampler.solver.rtol == 1e-4 and sampler.evaluations is None


def test_refusals() -> None:
    with pytest.raises(ValueError, match="auto_sampler got evaluations=0"):
        auto_sampler(0)
    with pytest.raises(ValueError, match="set tolerances above 0"):
        auto_sampler(tolerance=0.0)
    assert AdamsBashforth(2) != auto_sampler(8).solver
