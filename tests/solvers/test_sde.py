"""Stochastic solvers: marginal distributions, shared noise, log-probabilities."""

import math

import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.fields.conversion import convert_flow
from beeline.fields.flow import Flow
from beeline.paths.affine import Cosine, Linear
from beeline.solvers.diffusions import Brownian, Fading, Hump, Rectified, White
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import HEUN
from beeline.solvers.sde import EulerMaruyama, Langevin, Overshoot, Refresh, renoise

TWO = GaussianMixture(((-2.0,), (1.5,)), (0.3, 0.5), (0.3, 0.7))
N = 20_000
NOISE = White(Rng(7))


def solve(
    distribution: GaussianMixture, solver: object, steps: int, path: object = None, n: int = N, flow: Flow | None = None
) -> torch.Tensor:
    field = flow.field if flow else distribution.field() if path is None else distribution.field(path)
    x0 = Rng(0).normal(torch.empty(n, distribution.dim, dtype=torch.float64))
    return integrate(field, x0, torch.linspace(0, 1, steps + 1, dtype=torch.float64), solver)


def moments_fit(x: torch.Tensor, distribution: GaussianMixture, slack: float) -> None:
    mean, covariance = distribution.moments()
    assert abs(float(x.mean()) - float(mean)) < slack
    assert abs(float(x.var()) - float(covariance)) < 2 * slack


@pytest.mark.parametrize(
    "solver",
    [
        EulerMaruyama(NOISE, Fading(1.0)),
        EulerMaruyama(NOISE, Fading(4.0), heun=True),
        EulerMaruyama(NOISE, Hump(1.0)),
        EulerMaruyama(NOISE, Rectified(1.0)),
        EulerMaruyama(Brownian(Rng(3), depth=7), Fading(2.0, 2.0)),
        Refresh(NOISE, Fading(1.0)),
        Refresh(NOISE, Fading(4.0)),
        Overshoot(NOISE, 1.0, HEUN),
        Langevin(NOISE, HEUN, size=0.02),
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'diffusion', getattr(s, 'strength', ''))}",
)
def test_marginals_are_preserved(solver: object) -> None:
    """0.3 N(-2, 0.3^2) + 0.7 N(1.5, 0.5^2): mean 0.45, variance 2.776."""
    moments_fit(solve(TWO, solver, 64), TWO, 0.05)


def test_full_refresh_is_biased() -> None:
    """It takes the mean datum for a sample: the variance falls short at any number of steps, as documented."""
    for steps in (20, 100):
        assert float(solve(TWO, Overshoot(NOISE, full=True), steps).var()) < 2.4


def test_other_paths_and_the_converted_flow() -> None:
    moments_fit(solve(TWO, EulerMaruyama(NOISE, Fading(1.0), Cosine()), 80, Cosine()), TWO, 0.06)
    moments_fit(solve(TWO, Refresh(NOISE, Fading(1.0), HEUN, Cosine()), 64, Cosine()), TWO, 0.05)
    vp = convert_flow(Flow(TWO.field()), Cosine())
    moments_fit(solve(TWO, EulerMaruyama(NOISE, Fading(2.0), vp.path), 80, flow=vp), TWO, 0.06)


def test_backwards_reaches_the_source() -> None:
    x1 = TWO.sample(N, Rng(4)).double()
    times = torch.linspace(1, 0, 65, dtype=torch.float64)
    x0 = integrate(TWO.field(), x1, times, EulerMaruyama(NOISE, Fading(1.0)))
    assert abs(float(x0.mean())) < 0.05 and abs(float(x0.std()) - 1) < 0.03


def test_noising_is_exact() -> None:
    distribution = Gaussian((1.5,), std=0.5)
    t, s = (torch.full((N,), v, dtype=torch.float64) for v in (0.8, 0.5))
    x = (
        Linear()
        .point(Rng(0).normal(torch.empty(N, 1, dtype=torch.float64)), distribution.sample(N, Rng(1)).double(), t)
        .x
    )
    y = renoise(Linear(), x, t, s, NOISE)
    assert abs(float(y.mean()) - 0.75) < 0.02 and abs(float(y.var()) - (0.25 + 0.0625)) < 0.015


def test_brownian_noise_agrees_between_numbers_of_steps() -> None:
    like = torch.empty(3, 2, dtype=torch.float64)
    noise = Brownian(Rng(0))
    ends = [torch.full((3,), v, dtype=torch.float64) for v in (0.1, 0.35, 0.37, 0.9)]
    whole = noise(ends[0], ends[3], like) * math.sqrt(0.8)
    parts = sum(noise(a, b, like) * float(b[0] - a[0]) ** 0.5 for a, b in zip(ends, ends[1:], strict=False))
    assert torch.allclose(whole, parts, atol=1e-10)
    many = torch.empty(20_000, 1)
    z, w = (noise(a, b, many) for a, b in ((ends[0][:1], ends[1][:1]), (ends[1][:1], ends[3][:1])))
    assert abs(float(z.std()) - 1) < 0.02 and abs(float(w.std()) - 1) < 0.02 and abs(float((z * w).mean())) < 0.03
    distribution = GaussianMixture(((1.0, 0.0), (-1.0, 0.5)), 0.6)

    def end(noise: object, steps: int) -> torch.Tensor:
        return solve(distribution, EulerMaruyama(noise, Fading(1.0)), steps, n=200)

    near = float((end(noise, 128) - end(noise, 64)).square().mean().sqrt())
    assert near < 0.05 < 0.3 < float((end(White(Rng(0)), 128) - end(White(Rng(0)), 64)).square().mean().sqrt())


def test_seeds_make_a_sample_independent_of_its_batch() -> None:
    x0 = Rng(0).rows([5, 6, 7], torch.empty(3, 1, dtype=torch.float64))
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    for kind in (White, Brownian):
        both = integrate(TWO.field(), x0, times, EulerMaruyama(kind(Rng(1), (5, 6, 7))))
        alone = integrate(TWO.field(), x0[1:2], times, EulerMaruyama(kind(Rng(1), (6,))))
        assert torch.allclose(both[1:2], alone, atol=1e-12)


def test_log_probability_of_a_trajectory() -> None:
    """The sum over steps of the log density of the kernels: against torch's own, and against the memory."""
    solver, path, memories = EulerMaruyama(NOISE, Fading(2.0)), [], []
    x0 = Rng(0).normal(torch.empty(4, 1, dtype=torch.float64))
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    integrate(TWO.field(), x0, times, solver, watch=lambda x, t: path.append((x, t)), done=memories.append)
    pairs = list(zip(path, path[1:], strict=False))
    each = [solver.log_prob(TWO.field(), x, t, s, y) for (x, t), (y, s) in pairs]
    assert torch.allclose(sum(each), memories[0].log_prob, atol=1e-10) and float(each[-1].abs().max()) == 0
    (x, t), (y, s) = pairs[2]
    v, score = TWO.field()(x, t), TWO.score(x, t)
    g2 = 4 * (1 - float(t[0]))
    mean = x + 0.2 * (v + g2 / 2 * score)
    kernel = torch.distributions.Normal(mean, math.sqrt(g2 * 0.2))
    assert torch.allclose(each[2], kernel.log_prob(y)[:, 0], atol=1e-8)


def test_strength_zero_is_the_ode() -> None:
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    x0 = Rng(0).normal(torch.empty(16, 1, dtype=torch.float64))
    exact = integrate(TWO.field(), x0, times, HEUN)
    for solver in (Refresh(NOISE, Fading(0.0)), Overshoot(NOISE, 0.0, HEUN), Langevin(NOISE, HEUN, repeats=0)):
        assert torch.allclose(integrate(TWO.field(), x0, times, solver), exact, atol=1e-12)


def test_refusals() -> None:
    field, x = TWO.field(), torch.zeros(2, 1, dtype=torch.float64)
    one, zero = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for solver in (Overshoot(NOISE), Refresh(NOISE)):
        with pytest.raises(ValueError, match="invert with an ODE"):
            solver.step(field, x, one, zero, None)
    with pytest.raises(ValueError, match="cannot end before its end time"):
        Overshoot(NOISE, -1.0)
    for kind in (Fading, Hump, Rectified):
        with pytest.raises(ValueError, match="must be non-negative"):
            kind(-1.0)
    with pytest.raises(ValueError, match="need a positive size"):
        Langevin(NOISE, size=0.0)
    with pytest.raises(ValueError, match="one time per batch"):
        Brownian(Rng(0))(torch.tensor([0.0, 0.1]), torch.tensor([0.5, 0.6]), torch.empty(2, 1))
    with pytest.raises(ValueError, match="use heun=False"):
        EulerMaruyama(NOISE, heun=True).log_prob(field, x, zero, one, x)
