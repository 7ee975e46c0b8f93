"""Orders by regression, identities between solvers, and refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from beeline.core.declared import as_map
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.paths.affine import Cosine, Linear, VariancePreserving
from beeline.solvers.diffusions import Fading, White
from beeline.solvers.exponential import LogSNR, Ratio, Time
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import DEIS, AdamsBashforth, DPMSolver, Exponential, KeepNoise, UniPC
from beeline.solvers.parallel_in_time import GaussSeidelJacobi, Picard
from beeline.solvers.reversible import FixedPoint, Reversible, Symmetric
from beeline.solvers.runge_kutta import (
    EULER,
    HEUN,
    MIDPOINT,
    RALSTON,
    RK3,
    RK4,
    FlowMapStep,
    MidpointReuse,
    RungeKutta,
    Taylor,
)
from beeline.solvers.sde import EulerMaruyama, Overshoot, Refresh
from beeline.testing import check_solver_order, measured_order

X0 = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)


def hyperbola(x: Tensor, t: Tensor) -> Tensor:
    """x' = -2 t x^2,  x = 1 / (1/x0 + t^2)."""
    return -2 * t[:, None] * x**2


def turning(x: Tensor, t: Tensor) -> Tensor:
    """x' = cos(3t) J x with J a quarter turn: a rotation by sin(3t)/3."""
    return torch.cos(3 * t)[:, None] * torch.stack([-x[:, 1], x[:, 0]], 1)


def hyperbola_error(solver: object, steps: int, start: float, end: float) -> float:
    got = integrate(hyperbola, X0, torch.linspace(start, end, steps + 1, dtype=torch.float64), solver)
    return float((got - 1 / (1 / X0 - start**2 + end**2)).abs().max())


def turning_error(solver: object, steps: int, start: float, end: float) -> float:
    x = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)
    got = integrate(turning, x, torch.linspace(start, end, steps + 1, dtype=torch.float64), solver)
    angle = (math.sin(3 * end) - math.sin(3 * start)) / 3
    c, s = math.cos(angle), math.sin(angle)
    return float((got - torch.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], 1)).abs().max())


FULL = {  # solver -> order on the whole of [0, 1]
    "euler": (EULER, 1),
    "midpoint": (MIDPOINT, 2),
    "heun": (HEUN, 2),
    "ralston": (RALSTON, 2),
    "rk3": (RK3, 3),
    "rk4": (RK4, 4),
    "taylor": (Taylor(0.3), 2),
    "reuse": (MidpointReuse(), 2),
    "ab1": (AdamsBashforth(1), 1),
    "ab2": (AdamsBashforth(2), 2),
    "ab3": (AdamsBashforth(3), 3),
    "ab4": (AdamsBashforth(4), 4),
    "ab3 ramp": (AdamsBashforth(3, ramp=True), 2),
    "symmetric": (Symmetric(1e-14), 2),
    "fixed point": (FixedPoint(RK3), 3),
    "picard": (Picard(8, 1e-13, HEUN), 2),
    "gs-jacobi": (GaussSeidelJacobi(8, 1e-14, HEUN), 2),
    "no noise": (EulerMaruyama(White(Rng(0)), Fading(0.0)), 1),
    "no overshoot": (Overshoot(White(Rng(0)), 0.0, HEUN), 2),
    "no refresh": (Refresh(White(Rng(0)), Fading(0.0)), 2),
}
INSIDE = {  # away from the ends, where the log signal-to-noise ratio is infinite
    "dpm1": (DPMSolver(1), 1),
    "dpm2": (DPMSolver(2), 2),
    "deis2": (DEIS(2), 2),
    "deis3": (DEIS(3, ramp=False), 3),
    "deis4": (DEIS(4, ramp=False), 4),
    "deis noise": (DEIS(2, noise=True), 2),
    "deis ratio": (DEIS(3, clock=Ratio(), noise=True, ramp=False), 3),
    "deis cosine": (DEIS(3, Cosine(), ramp=False), 3),
    "unipc1": (UniPC(1), 2),  # the corrector adds one
    "unipc2": (UniPC(2), 3),
    "exponential": (Exponential(), 2),
    "exponential rk4": (Exponential(RK4), 4),
    "exponential cosine": (Exponential(RK3, Cosine()), 3),
}


@pytest.mark.parametrize("name", FULL)
def test_order(name: str) -> None:
    solver, order = FULL[name]
    steps = (32, 48, 64, 96) if order < 4 else (24, 32, 48, 64)
    check_solver_order(solver, order, steps=steps)
    assert measured_order(lambda n: turning_error(solver, n, 0.0, 1.0), steps) > order - 0.15


@pytest.mark.parametrize("name", INSIDE)
def test_order_inside(name: str) -> None:
    solver, order = INSIDE[name]
    steps = (64, 96, 128, 192) if order < 4 else (32, 48, 64)
    check_solver_order(solver, order, start=0.2, end=0.8, steps=steps)


def test_order_of_reversible() -> None:
    lift = Reversible(HEUN, coupling=0.9)

    def error(solver: Reversible, n: int, start: float, end: float) -> float:
        x = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
        times = torch.linspace(start, end, n + 1, dtype=torch.float64)
        got = solver.lower(integrate(hyperbola, solver.lift(x), times, solver))
        return float((got - 1 / (1 / x + end**2)).abs().max())

    assert abs(measured_order(lambda n: error(lift, n, 0.0, 1.0), (32, 48, 64, 96)) - 2) < 0.15


@pytest.mark.parametrize("solver", [s for s, _ in [*FULL.values(), *INSIDE.values()]], ids=[*FULL, *INSIDE])
def test_backwards(solver: object) -> None:
    """Integration backwards is the inverse to the accuracy of the solver."""
    if isinstance(solver, Overshoot | Refresh):
        pytest.skip("goes forward only")
    x = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    there = integrate(hyperbola, x, torch.linspace(0.1, 0.9, 129, dtype=torch.float64), solver)
    back = integrate(hyperbola, there, torch.linspace(0.9, 0.1, 129, dtype=torch.float64), solver)
    assert float((back - x).abs().max()) < (1e-2 if solver.order == 1 else 2e-4)


def test_log_clock_has_its_order() -> None:
    """DPM-3 with a proper start; the third-order term is small here, so that the order is approached from above."""
    solver = DEIS(3, clock=LogSNR(), ramp=False)
    assert measured_order(lambda n: hyperbola_error(solver, n, 0.2, 0.8), (128, 192, 256)) > 2.85


def test_uneven_steps_keep_the_order() -> None:
    """Variable-step coefficients: a warped grid has the same order."""
    for solver in (AdamsBashforth(2), AdamsBashforth(3), DEIS(3, ramp=False)):
        errors = []
        for n in (64, 128):
            times = 0.2 + 0.6 * torch.linspace(0, 1, n + 1, dtype=torch.float64) ** 1.7
            x = torch.tensor([[1.0]], dtype=torch.float64)
            got = integrate(hyperbola, x, times, solver)
            errors.append(abs(float(got) - 1 / (1 - 0.04 + 0.64)))
        assert math.log2(errors[0] / errors[1]) > solver.order - 0.3


def test_times_per_sample_equal_shared_times() -> None:
    """A batch with different times per sample gives the same as single samples."""
    distribution = GaussianMixture(((2.0, 0.0), (-2.0, 1.0)), 0.5)
    x = Rng(0).normal(torch.empty(2, 2, dtype=torch.float64))
    grids = torch.stack([torch.linspace(0.1, 0.8, 7).double(), torch.linspace(0.0, 1.0, 7).double() ** 1.3], 1)
    inside = torch.stack([torch.linspace(0.1, 0.8, 7).double(), torch.linspace(0.05, 0.9, 7).double()], 1)
    clocks = [DEIS(3, clock=clock, noise=noise) for clock in (Time(), LogSNR(), Ratio()) for noise in (False, True)]
    multistep = (*clocks, AdamsBashforth(3, ramp=True), DPMSolver(2), DPMSolver(3), UniPC(1), UniPC(2), UniPC(3))
    runs = [(s, times) for s in (HEUN, MidpointReuse(), Taylor(), *multistep) for times in (grids, grids.flip(0))]
    for solver, times in [*runs, (Exponential(), inside)]:
        both = integrate(distribution.field(), x, times, solver)
        alone = torch.cat([integrate(distribution.field(), x[i : i + 1], times[:, i], solver) for i in range(2)])
        assert torch.allclose(both, alone, atol=1e-12), solver


@pytest.mark.parametrize("solver", [AdamsBashforth(3), DEIS(3), DPMSolver(3), UniPC(3)])
def test_steps_without_a_run_are_those_of_the_run(solver: Any) -> None:
    """Coefficients are computed once for a run; a loop of steps computes them step by step, with the same results."""
    distribution = GaussianMixture(((2.0, 0.0), (-2.0, 1.0)), 0.5)
    x, times = Rng(0).normal(torch.empty(2, 2, dtype=torch.float64)), torch.linspace(0, 1, 8, dtype=torch.float64)
    at, y, memory = [t.repeat(2) for t in times], x, None
    for t, s in zip(at, at[1:], strict=False):
        y, memory = solver.step(distribution.field(), y, t, s, memory)
    assert torch.allclose(y, integrate(distribution.field(), x, times, solver), atol=1e-12)


def test_unipc_inverts_from_the_data() -> None:
    """No log signal-to-noise ratio exists at t = 1, so the first step backwards is not corrected."""
    distribution = GaussianMixture(((2.0, 0.0), (-2.0, 1.0)), 0.5)
    x, times = distribution.sample(64, Rng(0)).double(), torch.linspace(1, 0, 33, dtype=torch.float64)
    exact = integrate(distribution.field(), x, torch.linspace(1, 0, 401, dtype=torch.float64), RK4)
    errors = [float((integrate(distribution.field(), x, times, s) - exact).square().mean()) for s in (UniPC(2), EULER)]
    assert errors[0] < 0.2 * errors[1]


def test_one_step_identities() -> None:
    """With a constant estimate Euler, DDIM, DPM-1 and DEIS-1 are one step; RF-Solver is the midpoint rule."""
    distribution = GaussianMixture(((2.0, 0.0), (-2.0, 1.0)), 0.5)
    x, times = Rng(0).normal(torch.empty(8, 2, dtype=torch.float64)), torch.linspace(0, 1, 9, dtype=torch.float64)
    solve = lambda solver: integrate(distribution.field(), x, times, solver)  # noqa: E731
    for solver in (DPMSolver(1), DEIS(1), DEIS(1, noise=True), Picard(window=3, tolerance=1e-13)):
        assert torch.allclose(solve(solver), solve(EULER), atol=1e-12), solver
    assert torch.allclose(solve(Taylor()), solve(MIDPOINT), atol=1e-12)
    assert torch.allclose(solve(Taylor(1.0)), solve(HEUN), atol=1e-12)
    assert torch.allclose(solve(AdamsBashforth(1)), solve(EULER), atol=1e-12)


@pytest.mark.parametrize("path", [Linear(), Cosine(), VariancePreserving()])
def test_exact_for_a_constant_datum(path: object) -> None:
    """If every trajectory aims at one datum, solvers of the split are exact in any number of steps."""
    datum = torch.tensor([[1.5, -2.0]], dtype=torch.float64)
    x0 = Rng(0).normal(torch.empty(1, 2, dtype=torch.float64))
    start, end = 0.1, 0.9
    f = lambda x, t: path.velocity(x, t, x1=datum)  # noqa: E731
    at = lambda t: path.point(x0, datum, torch.tensor([t], dtype=torch.float64)).x  # noqa: E731
    times = torch.linspace(start, end, 4, dtype=torch.float64)
    for solver in (DPMSolver(2, path), DPMSolver(3, path), DEIS(3, path), DEIS(2, path, noise=True), UniPC(2, path)):
        assert torch.allclose(integrate(f, at(start), times, solver), at(end), atol=1e-10), solver
    assert torch.allclose(integrate(f, at(start), times, KeepNoise(path)), at(end), atol=1e-10)
    assert torch.allclose(integrate(f, at(start), times, Exponential(HEUN, path)), at(end), atol=1e-10)


def test_exponential_methods_are_exact_for_polynomials() -> None:
    """A datum estimate that is a polynomial of the clock is integrated exactly once enough of it is known."""
    path, times = Linear(), torch.tensor([0.1, 0.2, 0.35, 0.5, 0.7], dtype=torch.float64)
    for clock, at in (
        (Time(), lambda t: t),
        (LogSNR(), lambda t: torch.log(t / (1 - t))),
        (Ratio(), lambda t: t / (1 - t)),
    ):
        datum = lambda t, at=at: 1 + 2 * at(t) - 0.5 * at(t) ** 2  # noqa: E731
        nodes = times.tolist()[-2::-1][:3]  # 0.5, 0.35, 0.2
        weights = clock.weights(path, False, nodes[0], 0.7, nodes)
        fine = torch.linspace(nodes[0], 0.7, 20001, dtype=torch.float64)
        exact = 0.3 * torch.trapezoid(datum(fine) / (1 - fine) ** 2, fine)
        got = sum(w * float(datum(torch.tensor(n, dtype=torch.float64))) for w, n in zip(weights, nodes, strict=True))
        assert abs(got - float(exact)) < 1e-8


def test_unipc_corrects() -> None:
    """On the ring UniPC beats its own predictor, and both beat Euler, from ten steps on."""
    distribution = GaussianMixture.ring()
    x = Rng(0).normal(torch.empty(256, 2, dtype=torch.float64))
    solve = lambda n, s: integrate(distribution.field(), x, torch.linspace(0, 1, n + 1, dtype=torch.float64), s)  # noqa: E731
    exact = solve(200, RK4)
    for n in (10, 20):
        pc, p, e = (float((solve(n, s) - exact).square().mean()) for s in (UniPC(2), DPMSolver(2), EULER))
        assert pc < p < e


def test_keep_noise_is_exact_on_straight_flows_only() -> None:
    goal = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    x0 = torch.zeros(1, 2, dtype=torch.float64)
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    straight = lambda x, t: (goal - x0).expand_as(x)  # noqa: E731
    assert torch.allclose(integrate(straight, x0, times, KeepNoise()), goal)
    assert torch.allclose(integrate(straight, goal, times.flip(0), KeepNoise()), x0, atol=1e-12)
    coarse, fine = (hyperbola_error(KeepNoise(heun=True), n, 0.0, 1.0) for n in (200, 1600))
    assert fine > 0.8 * coarse > 1e-3  # does not converge: documented, order 0


def test_jump_is_exact() -> None:
    """A flow map integrated by FlowMapStep gives the exact map in any number of steps."""
    f = as_map(lambda x, t, s: ((1 / (1 / x + over1(s) - over1(t))) - x) / (over2(s) - over2(t)))
    over1 = lambda t: t[:, None] ** 2  # noqa: E731
    over2 = lambda t: t[:, None]  # noqa: E731
    x = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    for n in (1, 3):
        got = integrate(f, x, torch.linspace(0, 1, n + 1, dtype=torch.float64), FlowMapStep())
        assert torch.allclose(got, 1 / (1 / x + 1), atol=1e-12)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no explicit tableau"):
        RungeKutta(2, ((0.5,),), (0.0, 0.9))
    with pytest.raises(ValueError, match="Taylor got reach"):
        Taylor(0.0)
    with pytest.raises(ValueError, match=r"FlowMapStep\(\) got a velocity field"):
        FlowMapStep().step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    for solver, highest in ((AdamsBashforth, 4), (DEIS, 4), (DPMSolver, 3), (UniPC, 3)):
        with pytest.raises(ValueError, match=f"orders 1 to {highest}"):
            solver(highest + 1)
    with pytest.raises(ValueError, match="augmented state"):
        Reversible().step(hyperbola, torch.ones(1, 3), torch.zeros(1), torch.ones(1), None)
    with pytest.raises(ValueError, match="coupling"):
        Reversible(coupling=0.0)
    with pytest.raises(ValueError, match="FixedPoint got tolerance"):
        FixedPoint(tolerance=0.0)
    with pytest.raises(ValueError, match="Symmetric got tolerance"):
        Symmetric(tolerance=0.0)
    with pytest.raises(ValueError, match="still changed by"):
        rough = lambda x, t: 200 * torch.sin(300 * x)  # noqa: E731
        Symmetric(sweeps=5).step(rough, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    with pytest.raises(ValueError, match="the iteration could not end"):
        Picard(window=0)
    with pytest.raises(ValueError, match="tolerance"):
        GaussSeidelJacobi(tolerance=0.0)


def test_parallel_equals_sequential_in_fewer_rounds() -> None:
    distribution = GaussianMixture.ring()
    x = Rng(3).normal(torch.empty(32, 2, dtype=torch.float64))
    times = torch.linspace(0, 1, 65, dtype=torch.float64)
    exact = integrate(distribution.field(), x, times, EULER)
    for solver in (Picard(64, 1e-9), Picard(32, 1e-7), GaussSeidelJacobi(32, 1e-9)):
        memories: list = []
        got = integrate(distribution.field(), x, times, solver, done=memories.append)
        assert float((got - exact).abs().max()) < 1e-5
        assert memories[0].rounds <= 64 and memories[0].evaluations > 64
        assert memories[0].rounds < 45 or isinstance(solver, GaussSeidelJacobi)


def test_parallel_solvers_apply_corrections() -> None:
    """A controller that changes the state restarts the window: the answer stays the sequential one."""
    after = lambda x, t: x + 0.1  # noqa: E731
    x, times = torch.ones(2, 1, dtype=torch.float64), torch.linspace(0, 1, 9, dtype=torch.float64)
    exact = integrate(hyperbola, x, times, EULER, after=after)
    for solver in (Picard(4, 1e-12), GaussSeidelJacobi(4, 1e-12)):
        assert torch.allclose(integrate(hyperbola, x, times, solver, after=after), exact, atol=1e-10)


def test_reversible_round_trip_is_exact() -> None:
    distribution = GaussianMixture.ring()
    x = distribution.sample(64, Rng(0)).double()
    falling, rising = torch.linspace(1, 0, 17).double(), torch.linspace(0, 1, 17).double()
    solver = Reversible()
    back = integrate(
        distribution.field(), integrate(distribution.field(), solver.lift(x), falling, solver), rising, solver
    )
    assert float((solver.lower(back) - x).abs().max()) < 1e-11
    for kind in (FixedPoint(), Symmetric()):
        noise = integrate(distribution.field(), x, torch.linspace(1, 0, 33).double(), kind)
        assert (
            float((integrate(distribution.field(), noise, torch.linspace(0, 1, 33).double(), kind) - x).abs().max())
            < 1e-4
        )
    plain = integrate(distribution.field(), integrate(distribution.field(), x, falling, EULER), rising, EULER)
    assert float((plain - x).abs().max()) > 0.05
