"""Times: densities against histograms and quantiles, the wrappers, the log-SNR view."""

import math

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.objectives.losses.weights import ByDensity, MinSNR, PowerWeight, SigmoidSNR
from beeline.paths.affine import Cosine, Linear, VariancePreserving
from beeline.times.composed import Antithetic, Binned, Frames, NormalSNR, Pairs, Stratified, log_snr, snr_log_prob
from beeline.times.samplers import Beta, Bifocal, CosMap, LogitNormal, Mode, Uniform, UShaped

LIKE = torch.empty(0, dtype=torch.float64)
ALL = [
    Mode(1.29), Mode(-0.5), Mode(1.6), CosMap(), Bifocal(4.0, 2.0, 0.3), Beta(1.5, 1.0), Beta(2.0, 3.0),
    Binned((1.0, 2.0, 5.0)), NormalSNR(Cosine(), 1.0, 1.5), NormalSNR(VariancePreserving(), -1.0, 2.0),
    Stratified(LogitNormal(0.5)), Antithetic(UShaped(3.0)),
]  # fmt: skip


@pytest.mark.parametrize("times", ALL, ids=str)
def test_density_matches_the_samples(times):
    n = 60_000
    t = times(n, LIKE, Rng(1))
    assert t.dtype == torch.float64 and bool(((t >= 0) & (t <= 1)).all())
    edges = torch.linspace(0, 1, 21, dtype=torch.float64)
    fine = torch.linspace(0, 1, 20 * 400 + 1, dtype=torch.float64)
    middle = (fine[1:] + fine[:-1]) / 2
    mass = (times.log_prob(middle).exp() / len(middle)).reshape(20, -1).sum(1)
    assert abs(float(mass.sum()) - 1) < 5e-3
    hits = torch.histogram(t, edges).hist / n
    assert float((hits - mass).abs().max()) < 5 * math.sqrt(0.25 / n) + 2e-3


@pytest.mark.parametrize("times", [Uniform(), LogitNormal(0.3, 0.8), UShaped(4.0), Mode(1.0), CosMap(), Binned((1, 3)),
                                   NormalSNR(Linear(), 0.4, 2.0)], ids=str)  # fmt: skip
def test_quantile_is_the_inverse_of_the_integral(times):
    u = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    t = times.quantile(u)
    for low, high, want in zip(t[:-1], t[1:], u.diff(), strict=True):
        grid = torch.linspace(float(low), float(high), 4001, dtype=torch.float64)
        got = torch.trapezoid(times.log_prob(grid).exp(), grid)
        assert abs(float(got - want)) < 1e-3


def test_bifocal_with_equal_rates_is_ushaped():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(Bifocal(4.0, 4.0).log_prob(t), UShaped(4.0).log_prob(t), atol=1e-12)


def test_normal_snr_on_the_straight_path_is_logit_normal():
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    assert torch.allclose(NormalSNR(Linear(), 1.0, 3.0).log_prob(t), LogitNormal(0.5, 1.5).log_prob(t), atol=1e-10)
    u = torch.tensor([0.2, 0.7], dtype=torch.float64)
    assert torch.allclose(NormalSNR(Linear(), 1.0, 3.0).quantile(u), LogitNormal(0.5, 1.5).quantile(u), atol=1e-10)


def test_snr_density_integrates_to_one_and_has_the_known_form():
    lam = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    for times, path in ((Uniform(), Linear()), (CosMap(), Linear()), (LogitNormal(), Cosine())):
        density = snr_log_prob(times, path, lam).exp()
        assert abs(float(torch.trapezoid(density, lam)) - 1) < 1e-3
    # CosMap on the straight path and uniform times on the cosine path train the same levels: sech(lam/2) / (2 pi)
    known = 1 / torch.cosh(lam / 2) / (2 * math.pi)
    middle = lam.abs() < 20
    assert torch.allclose(snr_log_prob(CosMap(), Linear(), lam).exp()[middle], known[middle], atol=1e-8)
    assert torch.allclose(snr_log_prob(Uniform(), Cosine(), lam).exp()[middle], known[middle], atol=1e-8)
    assert float(log_snr(Linear(), torch.tensor(0.5))[0]) == 0


def test_stratified_covers_every_interval_and_antithetic_is_symmetric():
    t = Stratified(Uniform())(64, LIKE, Rng(0))
    assert (t * 64).long().sort().values.tolist() == list(range(64))
    t = Antithetic(LogitNormal())(8, LIKE, Rng(0))
    assert torch.allclose(t[:4] + t[4:], torch.ones(4, dtype=torch.float64))
    assert len(Antithetic(Uniform())(7, LIKE, Rng(0))) == 7


def test_frames_have_independent_times():
    frames = Frames(LogitNormal(), 3, clean=0.25)
    t = frames(4000, LIKE, Rng(2))
    assert t.shape == (4000, 3)
    assert abs(float((t == 1).double().mean()) - 0.25) < 0.02
    noisy = t[(t < 1).all(1)]
    assert abs(float(torch.corrcoef(noisy.T)[0, 1])) < 0.06
    alone = Frames(LogitNormal(), 2).log_prob(torch.tensor([[0.2, 0.7]]))
    assert torch.allclose(alone, LogitNormal().log_prob(torch.tensor([0.2, 0.7])).sum()[None])


def test_pairs_are_ordered_and_their_density_integrates():
    pairs = Pairs(LogitNormal(), diagonal=0.3)
    t = pairs(20_000, LIKE, Rng(0))
    assert bool((t[:, 0] <= t[:, 1]).all())
    assert abs(float((t[:, 0] == t[:, 1]).double().mean()) - 0.3) < 0.015
    grid = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    off = pairs.log_prob(torch.stack([first.flatten(), second.flatten() + 1e-9], 1))
    assert abs(float((off.exp() / 400**2)[first.flatten() < second.flatten()].sum()) - 0.7) < 5e-3


def test_refined_bins_follow_the_loss_and_lower_the_variance():
    t = Uniform()(50_000, LIKE, Rng(0))
    loss = torch.where(t < 0.25, 9.0, 1.0)
    learned = Binned((1.0,) * 4).refined(t, loss, floor=0.0)
    assert torch.allclose(torch.tensor(learned.mass), torch.tensor([0.75, 1 / 12, 1 / 12, 1 / 12]), atol=1e-3)
    # the weighted loss keeps its mean and loses its variance
    u = learned(50_000, LIKE, Rng(1))
    weighted = torch.where(u < 0.25, 9.0, 1.0) * ByDensity(learned, -1.0)(u)
    assert abs(float(weighted.mean()) - 3.0) < 0.02
    assert float(weighted.var()) < 0.01 * float(loss.var())


def test_weights_match_their_formulas():
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    uniform = torch.ones_like(t)
    assert torch.allclose(ByDensity(CosMap())(t), CosMap().log_prob(t).exp())
    assert torch.allclose(ByDensity(Uniform())(t), uniform)
    assert torch.allclose(PowerWeight(1, -2)(t), t / (1 - t) ** 2)
    # an error e of the velocity is an error (1-t) e of the datum and t e of the noise on the straight path
    assert torch.allclose(MinSNR(1e9)(t), t**2, atol=1e-9)
    assert torch.allclose(SigmoidSNR(0.0)(t), torch.sigmoid(-2 * torch.logit(t)) * t / (1 - t), atol=1e-9)
    on_cosine = MinSNR(1e9, Cosine())(t)
    a, b, da, db = Cosine().coefficients(t)
    assert torch.allclose(on_cosine, (a / (a * db - b * da)) ** 2, atol=1e-9)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Mode(1.8), "not monotone"),
        (lambda: Bifocal(-1.0), "rates must be above 0"),
        (lambda: Beta(0.0), "above 0"),
        (lambda: Binned((1.0, 0.0)), "never be sampled"),
        (lambda: Frames(count=0), "no frame to learn"),
        (lambda: Pairs(diagonal=2.0), "probability"),
        (lambda: NormalSNR(std=0.0), "standard deviation"),
        (lambda: Stratified(Beta()), "no method quantile"),
        (lambda: MinSNR(0.0), "above 0"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(BeelineError, match=words):
        make()


@pytest.mark.parametrize("path", [Linear(), Cosine(), VariancePreserving()])
def test_the_sigmoid_weight_is_a_weight_over_the_log_snr(path):
    """An error of the noise that depends on the log SNR alone costs the same on every path, as in the source."""
    bias = -3.0

    def error(lam):  # squared error of the noise at a log SNR, 0 where no path of these differs from another
        return torch.exp(-((lam + 2) ** 2) / 3)

    lam = torch.linspace(-9, 8, 200_001, dtype=torch.float64)
    known = torch.trapezoid(torch.sigmoid(bias - lam) * error(lam), lam) / 2
    t = torch.linspace(1e-6, 1 - 1e-6, 400_001, dtype=torch.float64)
    a, b, da, db = path.coefficients(t)
    of_velocity = error(2 * (a / b).log()) * ((a * db - b * da) / a) ** 2
    got = torch.trapezoid(SigmoidSNR(bias, path)(t) * of_velocity, t)
    assert abs(float(got / known) - 1) < 1e-4
