"""Fits of weights that depend on the state: better on unseen noise, equal to their start, and refusals."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.fit_solver import Bespoke, FitBase, Problem, fit_solver
from beeline.distillation.fit_weights import StateDependent, StateForm
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.fitted.linear import linear_form
from beeline.solvers.fitted.state_weights import StateWeights
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import UniPC
from beeline.solvers.runge_kutta import HEUN, RK4
from beeline.times.schedules import Uniform

FIELD = GaussianMixture.ring().field()
FLOW = Flow(FIELD)
FRESH = Rng(99).normal(torch.empty(512, 2, dtype=torch.float64))
EXACT = integrate(FIELD, FRESH, torch.linspace(0, 1, 101, dtype=torch.float64), RK4)


def error(sampler: Sampler) -> float:
    return float((sampler(FLOW, FRESH) - EXACT).square().mean().sqrt())


def test_weights_by_state_are_better_than_fixed_ones_on_fresh_noise() -> None:
    """Both have the same source points, and the fixed weights have as many iterations."""
    like, truth = torch.empty(4096, 2, dtype=torch.float64), Sampler(16, solver=RK4)
    fixed = fit_solver(FLOW, 4, like=like, rng=Rng(1), method=Bespoke(iterations=250), truth=truth)
    method = StateDependent(Bespoke(iterations=100), iterations=150, batch=512, lr=0.01)
    found = fit_solver(FLOW, 4, like=like, rng=Rng(1), method=method, truth=truth)
    assert isinstance(found.solver, StateWeights) and found.evaluations == 4
    assert error(found) < 0.8 * error(fixed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_untouched_form_is_its_start(dtype: torch.dtype) -> None:
    known = linear_form(UniPC(2), torch.linspace(0, 1, 6, dtype=torch.float64))
    assert known is not None
    x0 = FRESH[:64].to(dtype)
    form = StateForm(known, 4, Problem(FLOW, Plain(), x0, x0), Rng(0))
    plain = integrate(FIELD, x0, torch.tensor(known.times, dtype=dtype), known)
    assert torch.allclose(form.solve(FIELD, x0).detach(), plain, atol=1e-9 if dtype == torch.float64 else 1e-4)
    solver = form.solver()
    again = integrate(FIELD, x0, torch.tensor(solver.base.times, dtype=dtype), solver)
    assert torch.allclose(again, plain, atol=1e-9 if dtype == torch.float64 else 1e-4)


def test_a_changed_form_is_its_solver() -> None:
    known = linear_form(UniPC(2), torch.linspace(0, 1, 5, dtype=torch.float64))
    assert known is not None
    form = StateForm(known, 4, Problem(FLOW, Plain(), FRESH[:64], FRESH[:64]), Rng(0))
    with torch.no_grad():
        for k, part in enumerate(form.networks()):
            part.add_(0.2 * Rng(5).fork(k).normal(torch.empty_like(part)))
    solver = form.solver()
    ends = integrate(FIELD, FRESH[:64], torch.tensor(solver.base.times, dtype=torch.float64), solver)
    assert torch.allclose(form.solve(FIELD, FRESH[:64]).detach(), ends, atol=1e-9)
    assert (ends - integrate(FIELD, FRESH[:64], torch.tensor(known.times), known)).abs().max() > 0.01


class OfHeun(FitBase):
    """A fit whose solver has two evaluations per step."""

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Uniform, object]:
        return Uniform(), HEUN


def test_refusals() -> None:
    with pytest.raises(BeelineError, match="does not have one evaluation per step"):
        StateDependent(OfHeun())(Problem(FLOW, Plain(), FRESH[:64], EXACT[:64]), 2, Rng(0))
