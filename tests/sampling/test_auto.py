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
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import AdamsBashforth, UniPC
from beeline.solvers.runge_kutta import EULER, MIDPOINT, RK4


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 7, 8, 16, 40])
def test_evaluations_stay_within_the_budget(budget: int) -> None:
    sampler = auto_sampler(budget)
    assert sampler.evaluations is not None and 0 < sampler.evaluations <= budget
    assert build(describe(sampler)) == sampler


@pytest.mark.parametrize("budget", [1, 2, 4, 6, 8, 12, 16, 20])
def test_never_worse_than_euler_on_straight_trajectories(budget: int) -> None:
    """The velocity is constant along every trajectory, so that Euler is exact, and so is every other choice."""
    flow = Flow(lambda x, t, cond=None: 2 * x / (1 + 2 * t[:, None]))
    x0 = Rng(5).normal(torch.empty(64, 3, dtype=torch.float64))
    assert torch.allclose(auto_sampler(budget)(flow, x0), 3 * x0, atol=1e-9)


@pytest.mark.parametrize(
    "distribution", [GaussianMixture.ring(), GaussianMixture(((1.0, 0, 2), (-1, 1, 0), (0, -2, 1)), 0.4)]
)
def test_better_than_alternatives_on_held_out_distributions(distribution: GaussianMixture) -> None:
    flow, x0 = Flow(distribution.field()), Rng(5).normal(torch.empty(512, distribution.dim, dtype=torch.float64))
    exact = integrate(distribution.field(), x0, torch.linspace(0, 1, 81, dtype=torch.float64), RK4)
    error = lambda s: float((s(flow, x0) - exact).square().mean().sqrt())  # noqa: E731
    for budget in (4, 8):
        auto = error(auto_sampler(budget, independent=True))
        assert auto < 0.8 * error(Sampler(budget // 2, solver=MIDPOINT))
        assert auto < 0.35 * error(Sampler(budget, solver=EULER))
    for budget in (4, 6, 8, 12, 16):
        assert error(auto_sampler(budget)) < 0.9 * error(Sampler(budget, solver=EULER))
    assert error(auto_sampler(8)) < 0.8 * min(error(Sampler(4, solver=MIDPOINT)), error(Sampler(8, solver=UniPC(2))))


def test_tolerance() -> None:
    sampler = auto_sampler(tolerance=1e-4)
    assert isinstance(sampler.solver, Adaptive) and sampler.solver.rtol == 1e-4 and sampler.evaluations is None


def test_refusals() -> None:
    with pytest.raises(ValueError, match="auto_sampler got evaluations=0"):
        auto_sampler(0)
    with pytest.raises(ValueError, match="set tolerances above 0"):
        auto_sampler(tolerance=0.0)
    assert AdamsBashforth(2) != auto_sampler(8).solver
