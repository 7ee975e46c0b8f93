"""Simplex paths, token jumps and the pyramid against closed forms."""

import math

import pytest
import torch
from scipy import stats
from torch.nn.functional import one_hot

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import bind
from beeline.solvers.diffusions import White
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import EULER
from beeline.spaces.pyramid import Pyramid, upsample
from beeline.spaces.simplex import Dirichlet, GumbelSimplex, GumbelSoftmax, PosteriorNetwork, Simplex
from beeline.spaces.tokens import MaskTokens, TokenJumps, TokenMixture, UniformTokens


def hot(k, n, of):
    return one_hot(torch.full((n,), of), k).double()


def test_dirichlet_rate_for_two_symbols_is_the_continuity_equation():
    # K = 2: x = (b, 1-b), p = Beta(tau+1, 1), so F = b^(tau+1) and the flow of b is -dF/dtau / p = -b log b / (tau+1)
    b = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    tau = torch.full_like(b, 2.5)
    x = torch.stack([b, 1 - b], 1)
    rate = Dirichlet().rate(x, tau[:, None].expand_as(x))[:, 0]
    known = -b * torch.log(b) / 3.5 / (1 - b)
    assert torch.allclose(rate, known, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("k", [4, 20])
def test_dirichlet_field_generates_the_dirichlet_distribution(k):
    path, n = Dirichlet(), 4000
    x0 = Simplex().sample(torch.empty(n, k, dtype=torch.float64), Rng(0))
    p = hot(k, n, 1)
    x = integrate(lambda x, t: path.mixture(x, t, p), x0, torch.linspace(0, 1, 101, dtype=torch.float64))
    assert float((x.sum(1) - 1).abs().max()) < 1e-10
    assert abs(float(x[:, 1].mean()) - 8 / (8 + k - 1)) < 0.012
    assert stats.kstest(x[:, 1].numpy(), stats.beta(8, k - 1).cdf).statistic < 0.03
    samples = path.point(x0, p, torch.ones(n, dtype=torch.float64), Rng(3)).x
    assert stats.kstest(samples[:, 1].numpy(), stats.beta(8, k - 1).cdf).statistic < 0.03


def test_gumbel_softmax_slope_is_its_derivative_and_starts_at_the_source():
    path = GumbelSoftmax()
    x0 = GumbelSimplex().sample(torch.empty(6, 5, dtype=torch.float64), Rng(0))
    x1 = one_hot(torch.arange(6) % 5, 5).double()
    t, h = torch.linspace(0.05, 0.9, 6, dtype=torch.float64), 1e-6
    rise = path.point(x0, x1, t + h).x - path.point(x0, x1, t - h).x
    assert torch.allclose(rise / (2 * h), path.point(x0, x1, t).v, atol=1e-6)
    assert torch.allclose(path.point(x0, x1, torch.zeros(6, dtype=torch.float64)).x, x0, atol=1e-10)
    assert float(path.point(x0, x1, t).v.sum(1).abs().max()) < 1e-12


def test_gumbel_density_is_normalised_and_matches_samples():
    # K = 2: the log ratio of two Gumbel-softmax entries is logistic with scale 1 / (sharpness top)
    source = GumbelSimplex(1.0, 1.5)
    b = torch.linspace(0.0005, 0.9995, 20_000, dtype=torch.float64)
    density = source.log_prob(torch.stack([b, 1 - b], 1)).exp()
    assert abs(float(torch.trapezoid(density, b)) - 1) < 2e-3
    x = source.sample(torch.empty(20_000, 2, dtype=torch.float64), Rng(0))
    ratio = 1.5 * (x[:, 0].log() - x[:, 1].log())
    assert stats.kstest(ratio.numpy(), "logistic").statistic < 0.012
    three = torch.empty(4, 3, 4)
    assert torch.allclose(Simplex().log_prob(three), torch.full((4,), 3 * math.log(6)))


def test_posterior_with_the_exact_classifier_flows_to_the_data():
    # one symbol, K = 3, classes (0.6, 0.3, 0.1): the exact posterior under the Dirichlet path is prior x_k^tau
    prior = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    path = Dirichlet(top=20.0)
    network = lambda x, t: prior.log() + (path.top * t)[:, None] * x.clamp(min=1e-300).log()  # noqa: E731
    x0 = Simplex().sample(torch.empty(4000, 3, dtype=torch.float64), Rng(0))
    x = integrate(PosteriorNetwork(network, path), x0, torch.linspace(0, 1, 81, dtype=torch.float64))
    share = one_hot(x.argmax(1), 3).double().mean(0)
    assert float((share - prior).abs().max()) < 0.03


@pytest.mark.parametrize("source", [UniformTokens(), MaskTokens()], ids=str)
def test_token_jumps_reach_the_distribution_of_two_equal_tokens(source):
    # two tokens with a known joint distribution; the posterior of each position given both states is exact
    joint = torch.tensor([[0.3, 0.0, 0.1], [0.0, 0.4, 0.0], [0.1, 0.0, 0.1]], dtype=torch.float64)
    masked = isinstance(source, MaskTokens)
    path, n, k = TokenMixture(), 20_000, 4 if masked else 3

    def network(x, t):
        kept = path.kappa(t)[:, None]
        each = []
        for i in range(2):  # p(x_t^i = seen | x1^i = k)
            noise = x[:, i, 3:] if masked else torch.full_like(x[:, i, :1], 1 / 3)
            each.append(kept * x[:, i, :3] + (1 - kept) * noise)
        both = joint * each[0][:, :, None] * each[1][:, None, :]
        made = torch.stack([both.sum(2), both.sum(1)], 1).clamp(min=1e-300).log()
        return torch.nn.functional.pad(made, (0, k - 3), value=-1e6)

    x0 = source.sample(torch.empty(n, 2, k, dtype=torch.float64), Rng(0))
    x = integrate(
        PosteriorNetwork(network, path),
        x0,
        torch.linspace(0, 1, 65, dtype=torch.float64),
        TokenJumps(path, White(Rng(1))),
    )
    code = x.argmax(-1)
    got = torch.zeros(9, dtype=torch.float64).index_add_(0, code[:, 0] * 3 + code[:, 1], torch.ones(n).double())
    assert float((got.reshape(3, 3) / n - joint).abs().max()) < 0.015


def test_token_mixture_has_the_probability_kappa():
    path = TokenMixture(2.0)
    x0, x1 = hot(2, 20_000, 0), hot(2, 20_000, 1)
    t = torch.full((20_000,), 0.5, dtype=torch.float64)
    x, v = path.point(x0, x1, t, Rng(0))
    assert abs(float(x[:, 1].mean()) - 0.25) < 0.012
    assert abs(float(v[:, 1].mean()) - 1.0) < 0.05  # d kappa / dt = 2 t
    assert abs(float(UniformTokens().log_prob(hot(4, 3, 0)[None])[0]) + 3 * math.log(4)) < 1e-6
    assert MaskTokens().log_prob(torch.stack([hot(3, 2, 2), torch.eye(3).double()[1:]])).tolist() == [0.0, -math.inf]


def test_one_token_jump_is_exact_in_one_step():
    path, p = TokenMixture(), torch.tensor([0.7, 0.2, 0.1])
    field = lambda x, t: path.mixture(x, t, p)  # noqa: E731
    x = integrate(field, hot(3, 30_000, 2).float(), torch.tensor([0.0, 1.0]), TokenJumps(noise=White(Rng(4))))
    assert float((x.mean(0) - p).abs().max()) < 0.01


@pytest.mark.parametrize("g", [1 / 3, 0.2])
def test_pyramid_jump_restores_white_noise(g):
    pyramid = Pyramid((1.0, 0.6, 0.0), g)
    n = 40_000
    low = 0.6 * Rng(0).normal(torch.empty(n, 1, 1, 1, dtype=torch.float64))
    high = pyramid.jump(low, 1, Rng(1)).reshape(n, 4)
    covariance = high.T @ high / n
    wanted = pyramid.start(1) ** 2 * torch.eye(4, dtype=torch.float64)
    assert float((covariance - wanted).abs().max()) < 0.015
    if g == 1 / 3:  # identity 7: e = 2s/(1+s), scale 1/(1+s), noise sqrt(3) s/(1+s)
        assert abs(pyramid.start(1) - 1.2 / 1.6) < 1e-12 and abs(pyramid.gain(1) - 0.625) < 1e-12


def test_pyramid_with_the_exact_field_gives_the_image():
    # one known picture: E[noise | x] follows from x, so the exact field is known in every stage
    picture = torch.arange(64, dtype=torch.float64).reshape(1, 1, 8, 8) / 32 - 1
    pyramid = Pyramid()
    state = {}

    def field(x, clock):
        k = {2: 0, 4: 1, 8: 2}[x.shape[-1]]
        fake = torch.zeros(len(x), 1, 8, 8, dtype=x.dtype)
        u = next(u for u in torch.linspace(0, 1, 21, dtype=x.dtype) if abs(pyramid.clock(k, u) - clock[0]) < 1e-6)
        mean = pyramid.point(fake, picture.expand(len(x), 1, 8, 8), k, u.expand(len(x)))
        s, e = pyramid.start(k), pyramid.levels[k + 1]
        noise = (x - mean.x) / ((1 - u) * s + u * e).clamp(min=1e-12)
        state[k] = state.get(k, 0) + 1
        return mean.v + (e - s) * noise

    like = torch.empty(200, 1, 8, 8, dtype=torch.float64)
    made = pyramid.sample(field, like, Rng(0), steps=20, solver=EULER)
    assert float((made - picture).abs().max()) < 1e-8
    assert state == {0: 20, 1: 20, 2: 20}


def test_pyramid_states_match_their_ends():
    pyramid = Pyramid((1.0, 0.5, 0.0))
    x0, x1 = Rng(0).normal(torch.empty(3, 2, 8, 8).double()), Rng(1).normal(torch.empty(3, 2, 8, 8).double())
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    assert torch.allclose(pyramid.point(x0, x1, 1, one).x, x1)
    low = pyramid.point(x0, x1, 0, one).x
    assert torch.allclose(low, 0.5 * 2 * torch.nn.functional.avg_pool2d(x0, 2) + 0.5 * pyramid.coarse(x1, 0))
    start = pyramid.point(x0, x1, 1, zero).x
    s = pyramid.start(1)
    assert torch.allclose(start, s * x0 + (1 - s) * upsample(pyramid.coarse(x1, 0)))
    assert abs(float(pyramid.clock(1, one[:1])) - 1) < 1e-12 and float(pyramid.clock(0, zero[:1])) == 0
    # the mean of the jump is the mean of the start
    assert abs(pyramid.gain(1) * 0.5 - (1 - s)) < 1e-12


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Dirichlet(0.0), "concentration"),
        (lambda: GumbelSoftmax(-1.0), "above 0"),
        (lambda: Dirichlet().point(None, torch.ones(1, 3), torch.zeros(1), Rng(0)), "not on the simplex"),
        (lambda: Dirichlet().point(None, hot(3, 1, 0), torch.zeros(1, dtype=torch.float64)), "got rng=None"),
        (lambda: TokenMixture(0.5), "jump rate at t = 0 is infinite"),
        (
            lambda: TokenMixture().point(hot(2, 1, 0), hot(2, 1, 0) / 2 + 0.25, torch.zeros(1), Rng(0)),
            "a token is one-hot",
        ),
        (lambda: integrate(lambda x, t: x, torch.ones(1, 1), torch.tensor([1.0, 0.0]), TokenJumps()), "no inverse"),
        (lambda: Pyramid((1.0, 0.2)), "decrease from 1 to 0"),
        (lambda: Pyramid(correlation=0.5), "correlation"),
        (lambda: Pyramid().coarse(torch.zeros(1, 1, 6, 8), 0), "divisible by 4"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(BeelineError, match=words):
        make()


def test_the_table_of_rates_agrees_with_the_formula():
    x = Simplex().sample(torch.empty(3000, 4, dtype=torch.float64), Rng(0))
    tau = torch.full_like(x, 3.0)
    rows = torch.arange(0, 3000, 100)
    assert torch.allclose(Dirichlet().rate(x, tau)[rows], Dirichlet().rate(x[rows], tau[rows]), rtol=1e-4, atol=1e-5)


def test_incomplete_beta_rate_is_finite_everywhere():
    x = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1e-30, 0.5, 0.5]], dtype=torch.float64)
    for tau in (0.0, 3.0, 50.0):
        assert bool(Dirichlet().rate(x, torch.full_like(x, tau)).isfinite().all())


@pytest.mark.parametrize("g", [1 / 3, 0.2])
def test_pyramid_from_one_full_size_noise_has_the_same_distribution(g):
    """Both ways of drawing have the same distribution: that of a linear field, by its mean and covariance."""
    pyramid, n = Pyramid((1.0, 0.5, 0.0), g), 20_000
    f = lambda x, t: 0.5 - x * (0.5 + t)[:, None, None, None] + 0.3 * x.mean((2, 3), keepdim=True)  # noqa: E731
    like = torch.zeros(n, 1, 4, 4, dtype=torch.float64)
    u = torch.linspace(0, 1, 5, dtype=torch.float64)
    even = torch.cat([pyramid.clock(0, u), pyramid.clock(1, u[1:])])  # four steps a stage
    x0 = Rng(2).normal(like)
    one = pyramid.process().run(f, x0, even, EULER).flatten(1)
    two = pyramid.sample(f, like, Rng(1), steps=4, solver=EULER).flatten(1)
    assert float((one.mean(0) - two.mean(0)).abs().max()) < 0.03
    assert float((torch.cov(one.T) - torch.cov(two.T)).abs().max()) < 0.05 * float(torch.cov(two.T).max())
    assert torch.allclose(pyramid.process().run(f, x0[5:7], even, EULER).flatten(1), one[5:7], atol=1e-12)


def test_what_enters_at_a_jump_completes_the_noise_of_the_finer_stage():
    """With correlation 1/3, start noise A Up(E n_low) + jump is S n_high for the averages of one full-size noise."""
    pyramid = Pyramid()
    x0 = Rng(0).normal(torch.empty(3, 1, 8, 8, dtype=torch.float64))
    for k in (1, 2):
        high, e = pyramid.noise(x0, k), pyramid.levels[k]
        mean = torch.nn.functional.avg_pool2d(high, 2)
        assert torch.allclose(2 * mean, pyramid.noise(x0, k - 1))
        made = pyramid.enter(e * pyramid.noise(x0, k - 1), k, high - upsample(mean), mean)
        assert torch.allclose(made, pyramid.start(k) * high, atol=1e-12)


def test_final_step_to_symbols_depends_on_the_path():
    x, t = torch.tensor([[0.6, 0.4]]), torch.ones(1)
    net = lambda x, t: torch.stack([x[:, 1] - x[:, 0], x[:, 0]], 1).flip(1) * 5  # noqa: E731
    field = PosteriorNetwork(net, Dirichlet())
    assert field.process().finish(field, bind, x).tolist() == [[1.0, 0.0]]
    tokens = PosteriorNetwork(net, TokenMixture())
    assert torch.equal(tokens.process().finish(tokens, bind, x), x)
    assert torch.equal(PosteriorNetwork(net, Dirichlet(), logs=True).logits(x, t), net(x.log() / 4, t))
