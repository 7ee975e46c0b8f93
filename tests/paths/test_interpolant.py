"""Interpolants against closed forms; conversions between paths; heavy-tailed kernels."""

import math

import pytest
import torch
from scipy import stats

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.couplings.heavy_tailed import StudentT
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.conversion import convert_flow, matched_time_and_scale
from beeline.fields.flow import Flow
from beeline.paths.affine import Cosine, Linear, Polynomial, VariancePreserving
from beeline.paths.interpolant import (
    Bridge,
    BrownianBridge,
    ConstantAcceleration,
    EncodeDecode,
    Interpolant,
    Parabola,
    SineSquared,
    VarianceExploding,
)
from beeline.solvers.integrate import integrate
from beeline.solvers.latent_sde import LatentSDE
from beeline.solvers.runge_kutta import RK4

MIXTURE = GaussianMixture([[-2.0, 0.5], [1.0, -1.0]], [0.4, 0.7], [0.3, 0.7])


@pytest.mark.parametrize("latent", [BrownianBridge(0.7), Parabola(2.0), SineSquared(0.5)], ids=str)
def test_latent_slopes_and_ends(latent):
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    h = 1e-6
    assert torch.allclose((latent.size(t + h) - latent.size(t - h)) / (2 * h), latent.slope(t), atol=1e-7)
    assert float(latent.size(torch.tensor([0.0, 1.0], dtype=torch.float64)).abs().max()) < 1e-15


@pytest.mark.parametrize("path", [Bridge(0.8), Interpolant(Cosine(), SineSquared()), EncodeDecode()], ids=str)
def test_slope_is_the_derivative_along_fixed_noise(path):
    x0, x1 = (Rng(i).normal(torch.empty(5, 2, dtype=torch.float64)) for i in range(2))
    t = torch.tensor([0.1, 0.3, 0.45, 0.6, 0.9], dtype=torch.float64)
    h = 1e-6
    rise = path.point(x0, x1, t + h, Rng(2)).x - path.point(x0, x1, t - h, Rng(2)).x
    assert torch.allclose(rise / (2 * h), path.point(x0, x1, t, Rng(2)).v, atol=1e-6)


def _exact(t, x, m0=-2.0, s0=0.7, m1=1.0, s1=0.3):
    """Drift and score between two Gaussians with latent noise sqrt(t (1-t)) (card 543)."""
    mean, var = (1 - t) * m0 + t * m1, (1 - t) ** 2 * s0**2 + t**2 * s1**2 + t * (1 - t)
    slope = -2 * (1 - t) * s0**2 + 2 * t * s1**2 + 1 - 2 * t
    return m1 - m0 + slope / (2 * var) * (x - mean), -(x - mean) / var


def test_mean_slope_of_a_bridge_is_the_known_drift():
    n, path = 400_000, Bridge(1.0)
    x0 = -2 + 0.7 * Rng(0).normal(torch.empty(n, 1, dtype=torch.float64))
    x1 = 1 + 0.3 * Rng(1).normal(torch.empty(n, 1, dtype=torch.float64))
    t = torch.full((n,), 0.3, dtype=torch.float64)
    x, v = path.point(x0, x1, t, Rng(2))
    design = torch.cat([x, torch.ones_like(x)], 1)
    fit = torch.linalg.lstsq(design, v).solution[:, 0]
    drift = lambda y: float(_exact(0.3, torch.tensor(y))[0])  # noqa: E731
    assert abs(float(fit[0]) - (drift(1.0) - drift(0.0))) < 0.01
    assert abs(float(fit[1]) - drift(0.0)) < 0.01


@pytest.mark.parametrize("level", [0.0, 0.2, 1.0])
def test_any_noise_level_has_the_same_marginals(level):
    path = Bridge(1.0)
    eta = lambda x, t: -path.latent.size(t)[:, None] * _exact(t[:, None], x)[1]  # noqa: E731
    drift = lambda x, t: _exact(t[:, None], x)[0]  # noqa: E731
    x0 = -2 + 0.7 * Rng(5).normal(torch.empty(20_000, 1))
    solver = LatentSDE(path, eta, level, Rng(6))
    x = integrate(drift, x0, torch.linspace(1e-3, 1 - 1e-3, 301), solver)
    assert abs(float(x.mean()) - 1.0) < 0.03
    assert abs(float(x.std()) - 0.3) < 0.02


def test_bridge_refusals():
    one = torch.ones(1, 1)
    with pytest.raises(BeelineError, match="infinite"):
        Bridge().point(one, one, torch.ones(1), Rng(0))
    with pytest.raises(BeelineError, match="got rng=None"):
        Interpolant().point(one, one, torch.ones(1))
    with pytest.raises(BeelineError, match="where g.t. = 0"):
        Bridge().score(one, torch.ones(1))
    with pytest.raises(BeelineError, match="sigma"):
        Bridge(0.0)
    with pytest.raises(BeelineError, match="no denoiser"):
        integrate(lambda x, t: x, one, torch.tensor([0.1, 0.5]), LatentSDE(Bridge()))
    with pytest.raises(BeelineError, match="towards the source"):
        integrate(lambda x, t: x, one, torch.tensor([0.5, 0.1]), LatentSDE(Bridge(), lambda x, t: x))
    with pytest.raises(BeelineError, match="low"):
        VarianceExploding(1.0, 0.5)
    with pytest.raises(BeelineError, match="reverses its direction"):
        ConstantAcceleration(2.5)


@pytest.mark.parametrize("path", [VarianceExploding(), ConstantAcceleration(1.5), ConstantAcceleration(0.5)], ids=str)
def test_affine_paths_have_the_right_slopes_and_ends(path):
    t = torch.linspace(0.02, 0.98, 9, dtype=torch.float64)
    h = 1e-7
    a, b, da, db = path.coefficients(t)
    assert torch.allclose((path.a(t + h) - path.a(t - h)) / (2 * h), da, atol=1e-6)
    assert torch.allclose((path.b(t + h) - path.b(t - h)) / (2 * h), db, atol=1e-6)
    x0, x1 = (Rng(i).normal(torch.empty(9, 2, dtype=torch.float64)) for i in range(2))
    x, v = path.point(x0, x1, t)
    back = path.ends(x, v, t)
    assert torch.allclose(back[0], x0, atol=1e-8) and torch.allclose(back[1], x1, atol=1e-8)


def test_speed_one_is_the_straight_path_and_a_quadratic_step_is_exact():
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    one = ConstantAcceleration(1.0).coefficients(t)
    assert all(torch.equal(got, want) for got, want in zip(one, Linear().coefficients(t), strict=True))
    path, x0, x1 = ConstantAcceleration(1.5), torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    n, x = 3, torch.zeros(1, 1).double()
    v0, acceleration = 1.5 * (x1 - x0), 2 * (x1 - x0) - 2 * 1.5 * (x1 - x0)
    for i in range(n):
        x = x + v0 / n + acceleration * (i / n + 1 / (2 * n)) / n
        there = path.point(x0, x1, torch.tensor([(i + 1) / n]).double()).x
        assert torch.allclose(x, there, atol=1e-12)


TARGETS = [Linear(), Cosine(), VariancePreserving(), Polynomial(2.0), VarianceExploding()]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("source", [Linear(), Cosine(), VariancePreserving()], ids=str)
def test_converted_exact_field_is_the_exact_field(source, target):
    flow = convert_flow(Flow(MIXTURE.field(source), source), target)
    t = torch.linspace(0.12, 0.97, 24, dtype=torch.float64)
    x = 2 * Rng(0).normal(torch.empty(24, 2, dtype=torch.float64))
    assert torch.allclose(flow.field(x, t), MIXTURE.field(target)(x, t), atol=1e-7, rtol=1e-7)
    assert flow.path == target


def test_conversion_gives_the_same_samples_and_end_points():
    s, scale = matched_time_and_scale(Linear(), Cosine(), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert torch.allclose(s, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), atol=1e-12)
    assert abs(float(scale[1]) - math.sqrt(0.5)) < 1e-12
    x0 = Rng(0).normal(torch.empty(10, 2, dtype=torch.float64))
    times = torch.linspace(0, 1, 61, dtype=torch.float64)
    there = integrate(MIXTURE.field(), x0, times, RK4)
    via = integrate(convert_flow(Flow(MIXTURE.field()), Cosine()).field, x0, times, RK4)
    assert float((there - via).abs().max()) < 1e-4
    with pytest.raises(BeelineError, match="affine"):
        convert_flow(Flow(None, Bridge()), Linear())


@pytest.mark.parametrize("degrees", [1.0, 3.0, 64.0])
def test_student_kernel_is_that_of_pfgm(degrees):
    x = Rng(0).normal(torch.empty(6, 3, dtype=torch.float64)) * 2
    known = stats.multivariate_t(loc=[0, 0, 0], shape=1.0, df=degrees).logpdf(x.numpy())
    assert torch.allclose(StudentT(degrees).log_prob(x), torch.from_numpy(known), atol=1e-10)
    made = StudentT(degrees).sample(torch.empty(40_000, 3, dtype=torch.float64), Rng(1))
    assert stats.kstest(made[:, 0].numpy(), stats.t(degrees).cdf).statistic < 0.012


def test_student_kernel_converges_to_the_gaussian():
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    gauss = -(x**2).sum() / 2 - math.log(2 * math.pi)
    assert abs(float(StudentT(1e8).log_prob(x)[0]) - float(gauss)) < 1e-6
    with pytest.raises(BeelineError, match="above 0"):
        StudentT(0.0)
