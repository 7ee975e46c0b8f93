"""Likelihoods against closed forms, estimates against their expectation, gradients against each other."""

import math

import pytest
import torch

from beeline.core.rng import Rng
from beeline.couplings.sources import Empirical
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.density.adjoint import Adjoint, Checkpointed, Stored
from beeline.density.likelihood import Exact, Hutchinson, HutchPlusPlus, bits, bits_per_dimension, dequantise, log_prob
from beeline.fields.flow import Flow
from beeline.paths.affine import Cosine
from beeline.solvers.adaptive import Adaptive
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import HEUN, RK4

MATRIX = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 0.5, 3.0], [0.3, 0.0, -2.0]], dtype=torch.float64)


def linear(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x @ MATRIX.T


def test_exact_against_closed_forms() -> None:
    distribution = GaussianMixture(((1.0, 0.0), (-2.0, 1.0)), (0.5, 0.8))
    x = distribution.sample(32, Rng(0)).double()
    for flow in (Flow(distribution.field()), Flow(distribution.field(Cosine()), Cosine())):
        assert torch.allclose(log_prob(flow, x, steps=60, solver=RK4), distribution.log_prob(x), atol=1e-5)
    gauss = Gaussian((1.0, 2.0), std=(0.5, 2.0))
    x = gauss.sample(16, Rng(0)).double()
    one = log_prob(Flow(gauss.field()), x, steps=1, solver=Adaptive(1e-8, 1e-8))
    assert torch.allclose(one, gauss.log_prob(x), atol=1e-6)


def test_estimates_are_unbiased() -> None:
    """The trace of a matrix: the mean over many keys, with its standard error."""
    x, t = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1)
    trace = float(MATRIX.trace())
    assert float(Exact()(linear, x, t)[1]) == pytest.approx(trace)
    for make in (lambda k: Hutchinson(Rng(0).fork(k)), lambda k: HutchPlusPlus(Rng(0).fork(k), 3)):
        got = torch.tensor([float(make(k)(linear, x, t)[1]) for k in range(600)])
        assert abs(float(got.mean()) - trace) < 4 * float(got.std()) / math.sqrt(600)


def test_more_probes_and_the_subspace_reduce_the_variance() -> None:
    wide = torch.diag(torch.tensor([9.0, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64))
    turn = torch.linalg.qr(Rng(1).normal(torch.empty(6, 6, dtype=torch.float64))).Q
    f = lambda x, t: x @ (turn @ wide @ turn.T)  # noqa: E731
    x, t = torch.zeros(1, 6, dtype=torch.float64), torch.zeros(1)
    spread = lambda make: float(torch.tensor([float(make(k)(f, x, t)[1]) for k in range(200)]).std())  # noqa: E731
    plain, many = spread(lambda k: Hutchinson(Rng(0).fork(k))), spread(lambda k: Hutchinson(Rng(0).fork(k), 6))
    assert many < 0.6 * plain and spread(lambda k: HutchPlusPlus(Rng(0).fork(k), 6)) < 0.2 * many


def test_hutchinson_keeps_its_probes_along_a_trajectory() -> None:
    distribution = GaussianMixture(((1.0, 0.0), (-2.0, 1.0)), 0.6)
    x = distribution.sample(64, Rng(0)).double()
    got = torch.stack(
        [log_prob(Flow(distribution.field()), x, steps=5, divergence=Hutchinson(Rng(k))) for k in range(30)]
    )
    error = got.mean(0) - log_prob(Flow(distribution.field()), x, steps=5)
    assert float((error / (got.std(0) / math.sqrt(30) + 1e-3)).abs().mean()) < 1.5


def scaled(weight: torch.Tensor) -> Flow:
    return Flow(lambda x, t, cond=None: weight * torch.tanh(x) * (1 + t[:, None]) + (0 if cond is None else cond))


def test_gradients_agree() -> None:
    """Stored and checkpointed are the same numbers; the adjoint is the gradient of the exact flow."""
    x1 = Rng(0).normal(torch.empty(4, 2, dtype=torch.float64)).requires_grad_()
    weight = torch.tensor([0.5, -0.3], dtype=torch.float64, requires_grad=True)
    cond = torch.full((4, 2), 0.1, dtype=torch.float64, requires_grad=True)
    got = {}
    for name, gradient in (("stored", Stored()), ("again", Checkpointed()), ("back", Adjoint())):
        value = log_prob(scaled(weight), x1, cond, steps=24, solver=RK4, gradient=gradient)
        got[name] = (value.detach(), *torch.autograd.grad(value.sum(), (x1, weight, cond)))
    for a, b, c in zip(*got.values(), strict=True):
        assert torch.allclose(a, b, atol=1e-12) and torch.allclose(a, c, atol=1e-5)


def test_gradient_against_differences() -> None:
    x1 = Rng(0).normal(torch.empty(2, 2, dtype=torch.float64))

    def value(w: torch.Tensor) -> torch.Tensor:
        return log_prob(scaled(w), x1, steps=4, solver=HEUN).sum()

    assert torch.autograd.gradcheck(value, torch.tensor([0.5, -0.3], dtype=torch.float64, requires_grad=True))


def test_adjoint_of_integrate() -> None:
    x = torch.tensor([[0.5], [2.0]], dtype=torch.float64, requires_grad=True)
    times = torch.linspace(0, 1, 33, dtype=torch.float64)
    f = lambda x, t: -2 * t[:, None] * x**2  # noqa: E731
    (slope,) = torch.autograd.grad(Adjoint()(f, x, times, RK4).sum(), x)
    assert torch.allclose(slope, 1 / (1 + x.detach()) ** 2, atol=1e-6)  # d/dx0 of 1/(1/x0 + 1)
    assert torch.equal(Checkpointed(3)(f, x, times, RK4), integrate(f, x, times, RK4))


def test_no_graph_without_requires_grad() -> None:
    distribution = GaussianMixture(((1.0, 0.0),), 0.6)
    assert not log_prob(Flow(distribution.field()), torch.zeros(3, 2), steps=2).requires_grad
    weight = torch.ones(2, requires_grad=True)
    assert log_prob(scaled(weight), torch.zeros(3, 2), steps=2).requires_grad
    with torch.no_grad():
        assert not log_prob(scaled(weight), torch.zeros(3, 2), steps=2).requires_grad


def test_bits_per_dimension() -> None:
    """A uniform density on [-1, 1]^D over 256 levels costs exactly eight bits."""
    assert float(bits_per_dimension(torch.tensor([-10 * math.log(2.0)]), 10)) == pytest.approx(8.0)
    values = Rng(0).integers(256, 40).reshape(20, 2)
    there = dequantise(values, Rng(1))
    assert torch.equal(((there + 1) * 128).floor().long(), values)
    distribution = Gaussian((0.0, 0.0), std=0.4)
    flow = Flow(distribution.field())
    one = bits(flow, values[:4], rng=Rng(2), steps=20)
    exact = bits_per_dimension(distribution.log_prob(dequantise(values[:4], Rng(2).fork("draw", 0))), 2)
    assert torch.allclose(one, exact, atol=1e-2)
    assert float(bits(flow, values[:4], rng=Rng(2), steps=20, draws=4).mean()) <= float(one.mean()) + 0.05


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one probe"):
        Hutchinson(Rng(0), 0)
    with pytest.raises(ValueError, match="multiple of 3"):
        HutchPlusPlus(Rng(0), 4)
    with pytest.raises(ValueError, match="Empirical"):
        log_prob(Flow(lambda x, t: x, source=Empirical(torch.zeros(2, 1))), torch.zeros(1, 1), steps=1)
    with pytest.raises(ValueError, match="integers from 0 to 255"):
        dequantise(torch.tensor([[256]]), Rng(0))
    with pytest.raises(ValueError, match="dequantise got torch.float32"):
        dequantise(torch.zeros(1, 1), Rng(0))
    with pytest.raises(ValueError, match="draws=0"):
        bits(Flow(lambda x, t: x), torch.zeros(1, 1, dtype=torch.long), rng=Rng(0), draws=0)
    with pytest.raises(ValueError, match="segments=0"):
        Checkpointed(0)
