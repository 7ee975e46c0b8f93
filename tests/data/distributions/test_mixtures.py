"""Exact distributions against finite differences, quadrature, the continuity equation and their own samples."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate as quadrature
from scipy import stats

import beeline as bl

DISTRIBUTIONS = {
    "gaussian": bl.distributions.Gaussian((0.5, -1.0), std=(0.7, 1.4)),
    "full": bl.distributions.Gaussian((0.5, -1.0), covariance=((2.0, 0.9), (0.9, 0.7))),
    "mixture": bl.distributions.GaussianMixture(
        [[-2.0, 0.0], [1.0, 1.5], [0.0, -1.0]], [0.3, 0.6, 1.0], [1, 2, 3], labels=[0, 1, 0]
    ),
    "moons": bl.distributions.TwoMoons(0.15),
    "board": bl.distributions.Checkerboard(),
}
PATHS = [bl.paths.Linear(), bl.paths.Cosine(), bl.paths.VariancePreserving(), bl.paths.Polynomial(2.0)]
RNG = bl.Rng(7)

every_distribution = pytest.mark.parametrize("p", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())
every_path = pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)


def states(n: int, name: str = "x") -> tuple[torch.Tensor, torch.Tensor]:
    x = 2 * RNG.fork(name).normal(torch.empty(n, 2, dtype=torch.float64))
    return x, 0.05 + 0.85 * RNG.fork(name, "t").uniform(n, x)


def gradient(f, x, h=1e-5):
    steps = h * torch.eye(2, dtype=x.dtype)
    return torch.stack([(f(x + e) - f(x - e)) / (2 * h) for e in steps], 1)


@every_distribution
@every_path
def test_score_is_the_slope_of_the_log_density(p, path):
    x, t = states(60)
    wanted = gradient(lambda y: p.log_density(y, t, path), x)
    assert torch.allclose(p.score(x, t, path), wanted, rtol=1e-5, atol=1e-5)


@every_distribution
@every_path
def test_velocity_and_score_agree_through_the_path(p, path):
    x, t = states(60)
    assert torch.allclose(path.score(x, p.field(path)(x, t), t), p.score(x, t, path), rtol=1e-7, atol=1e-7)


@every_distribution
def test_velocity_on_the_straight_path_from_a_differentiated_density(p):
    x, t = states(60)
    score = gradient(lambda y: p.log_density(y, t), x)
    wide = t[:, None]
    assert torch.allclose(p.field()(x, t), (x + (1 - wide) * score) / wide, rtol=1e-5, atol=1e-4)


@every_distribution
@every_path
def test_continuity_equation(p, path):
    x, t = states(40)
    t = t.clamp(max=0.8)
    h = 1e-5
    change = (p.density(x, t + h, path) - p.density(x, t - h, path)) / (2 * h)
    field = p.field(path)
    flux = 0
    for i, e in enumerate(h * torch.eye(2, dtype=x.dtype)):
        there, back = x + e, x - e
        ahead = p.density(there, t, path) * field(there, t)[:, i]
        flux = flux + (ahead - p.density(back, t, path) * field(back, t)[:, i]) / (2 * h)
    assert float((change + flux).abs().max()) < 1e-7 * (1 + float(change.abs().max()))


@every_distribution
@pytest.mark.parametrize("t", [0.0, 0.4, 0.8, 1.0])
def test_density_integrates_to_one(p, t):
    # cells of the grid fit the squares of the board, so that the midpoint rule is exact there too
    ticks = torch.arange(-9.0 + 0.05, 9.0, 0.1, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    density = p.log_prob(grid).exp() if t == 1 else p.density(grid, t)
    assert float(density.sum()) * 0.1**2 == pytest.approx(1, abs=2e-6)


@every_distribution
def test_samples_have_the_exact_moments(p):
    x = p.sample(40_000, RNG.fork("moments"), dtype=torch.float64)
    mean, covariance = p.moments()
    assert torch.allclose(x.mean(0), mean, atol=5 * float(covariance.max()) ** 0.5 / 200)
    assert torch.allclose(x.T.cov(), covariance, atol=0.06 * float(covariance.max()))


@every_distribution
def test_samples_follow_the_density_along_a_direction(p):
    # one coordinate of the marginal by quadrature of the density over the other, against samples (Kolmogorov-Smirnov)
    ticks = torch.arange(-7.0 + 0.05, 7.0, 0.1, dtype=torch.float64)
    density = p.density(torch.cartesian_prod(ticks, ticks), 0.9).reshape(len(ticks), -1).sum(1)
    below = torch.cat([torch.zeros(1), density.cumsum(0)]) * 0.1**2
    edges = torch.cat([ticks[:1] - 0.05, ticks + 0.05])
    x1 = p.sample(4000, RNG.fork("ks"), dtype=torch.float64)
    x = 0.9 * x1 + 0.1 * RNG.fork("noise").normal(x1)
    outcome = stats.kstest(x[:, 0].numpy(), lambda v: np.interp(v, edges, below))
    assert outcome.pvalue > 1e-3


@every_distribution
def test_integrated_field_carries_noise_to_the_distribution(p):
    x0 = RNG.fork("start").normal(torch.empty(1500, 2, dtype=torch.float64))
    made = bl.integrate(p.field(), x0, torch.linspace(0, 1, 31, dtype=torch.float64))
    mean, covariance = p.moments()
    assert torch.allclose(made.mean(0), mean, atol=0.2)
    assert torch.allclose(made.T.cov(), covariance, atol=0.12 * float(covariance.max()))


def test_flow_likelihood_is_the_density_of_the_distribution():
    p = DISTRIBUTIONS["mixture"]
    x = p.sample(20, RNG, dtype=torch.float64)
    assert torch.allclose(bl.log_prob(p.flow(), x, steps=60, solver=bl.solvers.RK4), p.log_prob(x), atol=1e-4)


@every_distribution
@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_finite(p, path, dtype):
    x = states(30)[0].to(dtype)
    for t in (0.0, 1.0):
        v = p.field(path)(x, x.new_full((len(x),), t))
        assert v.dtype == dtype and bool(v.isfinite().all())


@every_distribution
@every_path
def test_single_precision_agrees_with_double(p, path):
    x, t = states(60)
    exact = p.field(path)(x, t)
    assert torch.allclose(p.field(path)(x.float(), t.float()).double(), exact, rtol=1e-3, atol=1e-3)


@every_distribution
def test_field_differentiates_forward_and_backward(p):
    x, t = states(10)
    field, h = p.field(), 1e-6
    dx, dt = torch.ones_like(x), torch.ones_like(t)
    _, slope = torch.func.jvp(field, (x, t), (dx, dt))
    wanted = (field(x + h * dx, t + h) - field(x - h * dx, t - h)) / (2 * h)
    assert torch.allclose(slope, wanted, rtol=1e-5, atol=1e-5)
    x.requires_grad_()
    (back,) = torch.autograd.grad(field(x, t).sum(), x)
    forth = [
        torch.func.jvp(lambda y: field(y, t), (x.detach(),), (e.expand_as(x),))[1].sum(1) for e in torch.eye(2).double()
    ]
    assert torch.allclose(back, torch.stack(forth, 1), rtol=1e-9, atol=1e-9)


def test_one_gaussian_moves_along_its_known_curve():
    p = bl.distributions.Gaussian((1.0, 2.0), std=0.5)
    x0 = RNG.normal(torch.empty(5, 2, dtype=torch.float64))
    made = bl.integrate(p.field(), x0, torch.linspace(0, 1, 101, dtype=torch.float64), bl.solvers.RK4)
    assert torch.allclose(made, torch.tensor([1.0, 2.0]).double() + 0.5 * x0, atol=1e-7)


def test_full_covariance_is_the_density_of_scipy():
    p, x = DISTRIBUTIONS["full"], states(20)[0]
    known = stats.multivariate_normal(p.mean, p.covariance).logpdf(x.numpy())
    assert np.allclose(p.log_prob(x).numpy(), known, rtol=1e-12)


@pytest.mark.parametrize("moon", [0, 1])
@pytest.mark.parametrize("std", [0.03, 0.1])
def test_moons_density_is_the_integral_over_the_angle(std, moon):
    p = bl.distributions.TwoMoons(std, scale=1.0)
    angle = torch.tensor(0.7, dtype=torch.float64)
    x = p.curve(angle, torch.tensor(moon)) + std * torch.tensor([0.4, -0.9], dtype=torch.float64)

    def f(value):
        c = p.curve(torch.tensor(value, dtype=torch.float64), torch.tensor(moon))
        return math.exp(-float((x - c).square().sum()) / (2 * std**2)) / (2 * math.pi * std**2) / math.pi

    wanted, _ = quadrature.quad(f, 0, math.pi, epsabs=0, epsrel=1e-12, points=[0.7], limit=200)
    made = p.log_prob(x[None], torch.tensor([moon])).exp()
    assert float(made) == pytest.approx(wanted, rel=1e-9)


def test_board_is_even_on_its_dark_squares():
    board = bl.distributions.Checkerboard(4, 2.0)
    x = board.sample(3000, RNG, dtype=torch.float64)
    assert torch.allclose(board.log_prob(x).exp(), torch.tensor(1 / 32).double())
    light = torch.tensor([[1.0, -1.0], [5.0, 5.0]]).double()
    assert board.log_prob(light).exp().tolist() == [0.0, 0.0]
    place = (x / 2).remainder(1)
    assert all(stats.kstest(place[:, i].numpy(), "uniform").pvalue > 1e-3 for i in (0, 1))
    # just before t = 1 the marginal is already the board, away from the edges
    inside = torch.tensor([[1.0, 1.0], [-3.0, -3.0]]).double()
    assert torch.allclose(board.density(inside, 1 - 1e-6), torch.tensor(1 / 32).double(), rtol=1e-5)


def test_labels_condition_the_mixture_exactly():
    p = bl.distributions.GaussianMixture.ring(4, 3.0, 0.5, labelled=True)
    x, t = states(8)
    cond = torch.tensor([0, 1, 2, 3, 4, 4, 0, 1])
    v = p.field()(x, t, {"label": cond})
    for i, label in enumerate(cond.tolist()):
        alone = p if label == 4 else bl.distributions.GaussianMixture([p.means[label]], 0.5)
        assert torch.allclose(v[i], alone.field()(x[i : i + 1], t[i : i + 1])[0], atol=1e-12)
    batch = p.batch(500, RNG)
    centres = torch.tensor(p.means)[batch.cond["label"]]
    assert float((batch.x1 - centres).norm(dim=1).max()) < 0.5 * 5
    assert torch.equal(p.sample(500, RNG), batch.x1)
    assert float((p.sample(50, RNG, label=2) - torch.tensor(p.means[2])).norm(dim=1).max()) < 0.5 * 5
    assert p.conditions == {"label": {"classes": 4}} and p.batch(2, RNG).x0 is None


def test_guidance_at_scale_one_and_zero_on_an_exact_field():
    p = bl.distributions.GaussianMixture.ring(4, labelled=True)
    x, t = states(6)
    label = torch.arange(6) % 4
    strong = bl.CFG(1.0, null=4)(p.field(), {"label": label})(x, t)
    weak = bl.CFG(0.0, null=4)(p.field(), {"label": label})(x, t)
    assert torch.allclose(strong, p.field()(x, t, label)) and torch.allclose(weak, p.field()(x, t))


def test_distributions_are_values():
    a, b = (
        bl.distributions.GaussianMixture(torch.tensor([[1.0], [2.0]]), np.array([0.5, 1.0])),
        bl.distributions.GaussianMixture([[1], [2]], [0.5, 1]),
    )
    assert a == b and hash(a) == hash(b) and a.means == ((1.0,), (2.0,))
    assert torch.equal(a.sample(5, RNG), a.sample(5, RNG)) and a.sample(3, RNG).dtype == torch.float32
    assert bl.distributions.GaussianMixture.grid(3).moments()[0].tolist() == pytest.approx([0, 0])
    with torch.inference_mode():
        bl.distributions.Gaussian((3.0, 1.0)).sample(2, RNG)
    x = torch.ones(1, 2, requires_grad=True)
    bl.distributions.Gaussian((3.0, 1.0)).log_prob(x).sum().backward()  # what inference mode made must not stay
    assert x.grad is not None


MIX = bl.distributions.GaussianMixture([[0.0], [1.0]], labels=[0, 1])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: bl.distributions.Gaussian((float("nan"),)), "has to be a finite number"),
        (lambda: bl.distributions.Gaussian((0.0,), std=1.0, covariance=((1.0,),)), "give one of them"),
        (lambda: bl.distributions.Gaussian((0.0,), std=-1.0), "above 0"),
        (lambda: bl.distributions.Gaussian((0.0, 0.0), covariance=((1.0, 2.0), (2.0, 1.0))), "positive definite"),
        (lambda: bl.distributions.GaussianMixture([[0.0], [1.0, 2.0]]), "rows of equal length"),
        (lambda: bl.distributions.GaussianMixture([[0.0]], [1.0, 1.0]), "one per mean"),
        (lambda: bl.distributions.GaussianMixture([[0.0]], weights=[-1.0]), "non-negative"),
        (lambda: bl.distributions.GaussianMixture([[0.0], [1.0]], labels=[0, 2]), "every class"),
        (lambda: bl.distributions.TwoMoons(0.0), "at least 0.01"),
        (lambda: bl.distributions.Checkerboard(1), "at least 2 cells"),
        (lambda: MIX.sample(0, RNG), "1 or more"),
        (lambda: MIX.sample(1, RNG, label=2), "0 .. 1"),
        (lambda: MIX.log_prob(torch.zeros(1, 3)), "has 1 coordinates"),
        (lambda: MIX.field()(torch.zeros(2, 1), torch.zeros(3)), "one time per sample"),
        (lambda: MIX.field()(torch.zeros(1, 1), torch.zeros(1), torch.tensor([3])), "2 for no condition"),
        (lambda: MIX.field()(torch.zeros(1, 1), torch.zeros(1), {"class": torch.tensor([3])}), "takes labels only"),
        (lambda: MIX.field(path=object()), "affine paths"),
        (lambda: bl.distributions.TwoMoons(0.1).log_prob(torch.zeros(1, 2), torch.tensor([5])), "2 classes"),
        (lambda: bl.distributions.Gaussian().log_prob(torch.zeros(1, 1), torch.tensor([0])), "components have none"),
        (lambda: bl.distributions.Checkerboard().log_prob(torch.zeros(1, 2), torch.tensor([0])), "squares have none"),
    ],
)
def test_refusals(act, message):
    with pytest.raises(bl.BeelineError, match=message):
        act()
