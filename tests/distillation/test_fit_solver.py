"""Fitted samplers: better on unseen noise, exact for constant fields, and refusals."""

import itertools

import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.fit_solver import Bespoke, Form, Problem, adams_weights, fit_solver, starting_solvers
from beeline.distillation.fit_steps import (
    AlignedSteps,
    Bellman,
    Chosen,
    Evolved,
    Improved,
    Searched,
    jump_costs,
    shortest,
)
from beeline.fields.flow import Flow
from beeline.paths.affine import Linear, Polynomial
from beeline.sampling.guidance.guide import CFG, Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.fitted.linear import Fitted, linear_form
from beeline.solvers.fitted.presets import PRESETS
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import AdamsBashforth, DPMSolver, UniPC
from beeline.solvers.runge_kutta import EULER, RK4
from beeline.times.schedules import Shifted, Uniform

MIXTURE = GaussianMixture.ring()
FLOW = Flow(MIXTURE.field())
LIKE = torch.empty(256, 2, dtype=torch.float64)
FRESH = Rng(99).normal(torch.empty(512, 2, dtype=torch.float64))
EXACT = integrate(MIXTURE.field(), FRESH, torch.linspace(0, 1, 101, dtype=torch.float64), RK4)


def error(sampler: Sampler) -> float:
    return float((sampler(FLOW, FRESH) - EXACT).square().mean().sqrt())


def problem(n: int = 128) -> Problem:
    return Problem(FLOW, Plain(), FRESH[:n], EXACT[:n])


@pytest.mark.parametrize(
    ("method", "gain"),
    [
        (Bespoke(iterations=60), 0.5),
        (Searched(iterations=60, fine=32), 0.8),
        (Improved(), 0.75),
        (AlignedSteps(), 0.7),
        (Evolved(generations=4, population=10, keep=3), 1.001),
        (Bellman(fine=32), 1.001),
    ],
    ids=lambda m: type(m).__name__,
)
def test_fits_are_better_than_euler_on_fresh_noise(method: object, gain: float) -> None:
    schedule, solver = method(problem(256), 5, Rng(0))
    assert error(Sampler(5, schedule, solver)) < gain * error(Sampler(5, solver=EULER))


def test_fit_solver_beats_the_plain_multistep_solver() -> None:
    sampler = fit_solver(FLOW, 6, like=LIKE, rng=Rng(1), method=Bespoke(iterations=80), truth=Sampler(16, solver=RK4))
    assert isinstance(sampler.solver, Fitted) and sampler.evaluations == 6
    assert error(sampler) < 0.7 * error(Sampler(6, solver=AdamsBashforth(2)))
    again = fit_solver(FLOW, 6, like=LIKE, rng=Rng(1), method=Bespoke(iterations=80), truth=Sampler(16, solver=RK4))
    assert again == sampler


def test_fit_under_guidance() -> None:
    mixture = GaussianMixture(((2.0, 0.0), (-2.0, 0.0)), 0.5, labels=(0, 1))
    flow, cond = Flow(mixture.field()), torch.arange(256) % 2
    guide = CFG(2.0, mixture.classes)
    sampler = fit_solver(flow, 4, like=LIKE, rng=Rng(1), cond=cond, guidance=guide, method=Bespoke(iterations=40))
    assert sampler.guidance == guide and sampler.evaluations == 8
    exact = Sampler(40, solver=RK4, guidance=guide)(flow, FRESH[:256], cond)
    error = lambda s: float((s(flow, FRESH[:256], cond) - exact).square().mean())  # noqa: E731
    assert error(sampler) < error(Sampler(4, solver=AdamsBashforth(2), guidance=guide))


def test_a_bad_fit_is_replaced_by_the_best_start() -> None:
    sampler = fit_solver(FLOW, 4, like=LIKE, rng=Rng(1), method=Worst(), truth=Sampler(16, solver=RK4))
    assert (sampler.schedule, sampler.solver) in starting_solvers(Linear(), 4)


@pytest.mark.parametrize("steps", [3, 4])
def test_the_result_is_never_worse_than_a_start_on_the_held_out_noise(steps: int) -> None:
    rng, truth = Rng(1), Sampler(16, solver=RK4)
    sampler = fit_solver(FLOW, steps, like=LIKE, rng=rng, method=Bespoke(iterations=2, lr=0.3), truth=truth)
    x0 = FLOW.source.sample(LIKE, rng.fork("noise"))[rng.fork("split").permutation(len(LIKE))[: len(LIKE) // 4]]
    held = Problem(FLOW, Plain(), x0, truth(FLOW, x0))
    best = min(held.error(*start, steps) for start in starting_solvers(Linear(), steps))
    assert held.error(sampler.schedule, sampler.solver, steps) <= best * (1 + 1e-9)


@pytest.mark.parametrize("solver", [AdamsBashforth(2), DPMSolver(2), UniPC(2), UniPC(3)], ids=str)
def test_an_untouched_form_is_its_start(solver: object) -> None:
    """The fit begins exactly at the solver from which it starts."""
    schedule = Shifted(1.6)
    known = linear_form(solver, schedule(5))
    for consistent in (False, True):
        form = Form(torch.tensor(known.times, dtype=torch.float64), 3, keep=True, consistent=consistent)
        form.set(known)
        plain = integrate(MIXTURE.field(), FRESH[:32], schedule(5).double(), solver)
        assert torch.allclose(form.solve(MIXTURE.field(), FRESH[:32]).detach(), plain, atol=1e-9)


def test_a_consistent_form_stays_exact_for_straight_trajectories() -> None:
    form = Form(Shifted(2.0)(4), 2, keep=True, consistent=True)
    with torch.no_grad():
        form.change += Rng(0).normal(form.change)
    velocity = Rng(1).normal(FRESH[:32])
    made = form.solve(lambda x, t: velocity, FRESH[:32])
    assert torch.allclose(made.detach(), FRESH[:32] + velocity, atol=1e-12)


def test_solvers_without_a_first_step_on_the_path_are_no_starts() -> None:
    starts = starting_solvers(Polynomial(2.0), 4)
    assert starts and not any(isinstance(solver, (DPMSolver, UniPC)) for _, solver in starts)
    assert any(isinstance(solver, UniPC) for _, solver in starting_solvers(Linear(), 4))
    flow = Flow(MIXTURE.field(Polynomial(2.0)), Polynomial(2.0))
    sampler = fit_solver(flow, 4, like=LIKE, rng=Rng(1), method=Chosen(), truth=Sampler(16, solver=RK4))
    assert bool(sampler(flow, FRESH).isfinite().all()) and sampler.evaluations == 4


def test_the_choice_by_measurement_is_never_worse_than_a_known_solver() -> None:
    flat = problem(64)
    schedule, solver = Chosen()(flat, 6, Rng(0))
    assert flat.error(schedule, solver, 6) == min(flat.error(*start, 6) for start in starting_solvers(Linear(), 6))
    assert flat.error(schedule, solver, 6) <= flat.error(Uniform(), UniPC(2), 6)


class Worst:
    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[object, object]:
        return Shifted(50.0), EULER


def test_the_form_is_initialised_to_adams_bashforth() -> None:
    form = Form(Shifted(2.0)(6), 2, keep=True)
    assert float(form.times()[-1]) == 1 and torch.allclose(form.times(), Shifted(2.0)(6).double(), atol=1e-6)
    plain = integrate(MIXTURE.field(), FRESH[:8], form.times().detach(), AdamsBashforth(2))
    assert torch.allclose(form.solve(MIXTURE.field(), FRESH[:8]).detach(), plain, atol=1e-6)
    solver = form.solver()
    states = integrate(MIXTURE.field(), FRESH[:8], torch.tensor(solver.times, dtype=torch.float64), solver)
    assert torch.allclose(states, plain, atol=1e-6)


def test_the_form_copies_a_fitted_solver() -> None:
    known = Fitted(*PRESETS[4])
    form = Form(Uniform()(4), 2, keep=True)
    form.set(known)
    times = torch.tensor(known.times, dtype=torch.float64)
    exact = integrate(MIXTURE.field(), FRESH[:8], times, known)
    assert torch.allclose(form.solve(MIXTURE.field(), FRESH[:8]).detach(), exact, atol=1e-5)


def test_adams_weights_are_exact_and_differentiable() -> None:
    nodes = [torch.tensor(v, dtype=torch.float64) for v in (0.5, 0.3, 0.1)]
    t, s = nodes[0], torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    weights = adams_weights(nodes, t, s)
    for power in range(3):
        exact = (0.8 ** (power + 1) - 0.5 ** (power + 1)) / (power + 1)
        assert float(sum(w * n**power for w, n in zip(weights, nodes, strict=True))) == pytest.approx(exact)
    assert float(torch.autograd.grad(weights.sum(), s)[0]) == pytest.approx(1.0)


def test_dynamic_programming_equals_brute_force() -> None:
    cost = jump_costs(problem(32), 10)
    for steps in (1, 3, 4, 10):
        paths = ([0, *inner, 10] for inner in itertools.combinations(range(1, 10), steps - 1))
        total = lambda p: sum(float(cost[a, b]) for a, b in zip(p, p[1:], strict=False))  # noqa: E731
        assert total(shortest(cost, steps)) == pytest.approx(min(map(total, paths)))
    best = [total(shortest(cost, n)) for n in range(1, 11)]
    assert all(b <= a + 1e-12 for a, b in zip(best, best[1:], strict=False))


def test_constant_fields_stay_exact() -> None:
    still = Flow(lambda x, t, cond=None: torch.ones_like(x))
    x1 = FRESH[:64] + 1
    flat = Problem(still, Plain(), FRESH[:64], x1)
    for method in (Improved(), AlignedSteps(), Searched(iterations=3)):
        schedule, solver = method(flat, 3, Rng(0))
        assert torch.allclose(Sampler(3, schedule, solver)(still, FRESH[:64]), x1, atol=1e-5)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one step: give a whole number"):
        fit_solver(FLOW, 0, like=LIKE, rng=Rng(0))
    with pytest.raises(ValueError, match="a few hundred rows"):
        fit_solver(FLOW, 4, like=LIKE[:4], rng=Rng(0))
    with pytest.raises(ValueError, match="nothing to fit with"):
        Bespoke(iterations=0)
    with pytest.raises(ValueError, match="set fine= to at least"):
        Bellman(fine=4)(problem(16), 8, Rng(0))
    with pytest.raises(ValueError, match="cannot find"):
        Evolved(keep=1)(problem(16), 4, Rng(0))
    with pytest.raises(ValueError, match="the loss of the fit is not finite"):
        broken = Flow(lambda x, t, cond=None: x + 0 * (t - 0.5)[:, None].abs() ** 0.5)
        Bespoke(iterations=3)(Problem(broken, Plain(), FRESH[:16], torch.full_like(FRESH[:16], torch.nan)), 3, Rng(0))
