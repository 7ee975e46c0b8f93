"""Rules of guidance: identities, closed forms and statistics on Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Unconditional, Weak
from beeline.sampling.guidance.references.perturbed_time import PerturbedTime
from beeline.sampling.guidance.rules.frequencies import PerFrequency
from beeline.sampling.guidance.rules.norms import NormRestored, PerChannel
from beeline.sampling.guidance.rules.projections import Projected, Rescaled, ZeroStar
from beeline.sampling.guidance.rules.scales import Falling, OverTime, PowerCosine, RaisedCosine, Rising, Sine, Tent
from beeline.sampling.sampler import Sampler

SHAPES = (Rising(), Falling(), RaisedCosine(), Sine(), PowerCosine(4.0), PowerCosine(0.7), Tent())
ONES = (
    Extrapolate(1.0),
    *(OverTime(1.0, s) for s in SHAPES),
    ZeroStar(1.0),
    Projected(1.0),
    Rescaled(Extrapolate(1.0)),
    PerFrequency((1.0, 1.0)),
    NormRestored(1.0, PerChannel()),
)


def predictions(seed=0, n=4, shape=(3, 4, 4)):
    strong, weak, x = (Rng(seed).fork(k).normal(torch.empty(n, *shape, dtype=torch.float64)) for k in "swx")
    return strong, weak, x, torch.tensor([0.0, 0.2, 0.6, 0.95], dtype=torch.float64)[:n]


@pytest.mark.parametrize("rule", ONES, ids=str)
def test_scale_one_is_the_strong_prediction(rule):
    strong, weak, x, t = predictions()
    assert torch.allclose(rule.for_run()(strong, weak, x, t), strong, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_have_mean_one_over_time(shape):
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    assert float(shape(t).mean()) == pytest.approx(1, abs=1e-6) and float(shape(t).min()) >= 0


def test_a_scale_over_time_is_extrapolation_with_the_scale_of_that_time():
    strong, weak, x, t = predictions()
    found = OverTime(3.0, Rising(), least=1.5).for_run()(strong, weak, x, t)
    for i, scale in enumerate((1.5, 1.8, 3.4, 4.8)):
        assert torch.allclose(found[i], Extrapolate(scale).for_run()(strong, weak, x, t)[i], atol=1e-12)


def test_zero_star_ignores_multiples_of_the_strong_prediction():
    strong, weak, x, t = predictions()
    assert torch.allclose(ZeroStar(5.0).for_run()(strong, -0.3 * strong, x, t), strong, atol=1e-12)
    v = ZeroStar(5.0).for_run()(strong, weak, x, t)
    s = torch.stack([(a * b).sum() / (b * b).sum() for a, b in zip(strong, weak, strict=True)])[:, None, None, None]
    assert torch.allclose(v, s * weak + 5 * (strong - s * weak), atol=1e-12)
    first = ZeroStar(5.0, start=0.5).for_run()(strong, weak, x, t)
    assert not first[:2].any() and torch.equal(first[2:], v[2:])


def test_projection_adds_nothing_along_the_data_and_is_extrapolation_with_all_of_it():
    strong, weak, x, t = predictions()
    plain = Extrapolate(4.0).for_run()(strong, weak, x, t)
    assert torch.allclose(Projected(4.0, parallel=1.0).for_run()(strong, weak, x, t), plain, atol=1e-9)
    left = (1 - t)[:, None, None, None]
    added = left * (Projected(4.0).for_run()(strong, weak, x, t) - strong)
    assert (added * (x + left * strong)).flatten(1).sum(1).abs().max() < 1e-9
    bounded = left * (Projected(4.0, parallel=1.0, radius=0.1).for_run()(strong, weak, x, t) - strong) / 3
    size = bounded.square().flatten(1).mean(1).sqrt()
    assert torch.allclose(size, (left * (strong - weak)).square().flatten(1).mean(1).sqrt().clamp(max=0.1), atol=1e-9)


def test_momentum_is_a_geometric_sum_and_ends_with_the_run():
    strong, weak, x, t = predictions()
    rule = Projected(2.0, parallel=1.0, momentum=-0.5)
    run = rule.for_run()
    first, second = run(strong, weak, x, t), run(strong, weak, x, t)
    assert torch.allclose(first, strong + (strong - weak), atol=1e-9)
    assert torch.allclose(second, strong + 0.5 * (strong - weak), atol=1e-9)
    assert torch.equal(rule.for_run()(strong, weak, x, t), first)


def test_rescaling_restores_the_deviation_of_the_data():
    strong, weak, x, t = predictions()
    left = (1 - t)[:, None, None, None]
    data = x + left * Rescaled(Extrapolate(6.0), share=1.0).for_run()(strong, weak, x, t)
    wanted = (x + left * strong).flatten(1).std(1)
    assert torch.allclose(data.flatten(1).std(1), wanted, atol=1e-9)


def gaussian(mean: float, deviation: float):
    """The velocity of N(mean, deviation^2) on the straight path."""

    def field(x, t, cond=None):
        a, s = t[:, None], 1 - t[:, None]
        return mean + (a * deviation**2 - s) / (a * a * deviation**2 + s * s) * (x - a * mean)

    return field


@pytest.mark.parametrize("shape, share", [(Rising(), lambda t: 2 * t), (Tent(), lambda t: 2 - 4 * abs(t - 0.5))])
def test_samples_of_gaussians_are_those_of_the_equation_solved_by_scipy(shape, share):
    """Both predictions are affine in the state, with the coefficients of N(1.5, 1) and N(0, 4) written out here."""

    def equation(t, x):
        strong = 1.5 + (t - (1 - t)) / (t * t + (1 - t) ** 2) * (x - 1.5 * t)
        weak = (4 * t - (1 - t)) / (4 * t * t + (1 - t) ** 2) * x
        return weak + (1 + share(t)) * (strong - weak)

    x0 = Rng(0).normal(torch.empty(8, 1, dtype=torch.float64))
    guidance = Guide(Weak(gaussian(0.0, 2.0)), OverTime(2.0, shape))
    found = Sampler(400, guidance=guidance)(Flow(gaussian(1.5, 1.0)), x0)
    wanted = solve_ivp(equation, (0, 1), x0[:, 0].numpy(), rtol=1e-9, atol=1e-9).y[:, -1]
    assert found[:, 0].tolist() == pytest.approx(wanted.tolist(), abs=1e-4)


def test_time_is_perturbed_between_noise_and_data():
    weak, cond = PerturbedTime(0.2, power=2.0)(gaussian(0.0, 2.0), {"label": torch.zeros(3)})
    x, t = torch.ones(3, 1, dtype=torch.float64), torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    moved = torch.tensor([0.0, 0.4 * (1 - 0.2 * 0.36), 1.0], dtype=torch.float64)
    assert torch.allclose(weak(x, t), gaussian(0.0, 2.0)(x, moved), atol=1e-12) and "label" in cond
    still, _ = PerturbedTime(0.0)(gaussian(0.0, 2.0), None)
    assert torch.equal(still(x, t), gaussian(0.0, 2.0)(x, t))


def test_perturbed_time_applies_to_flows_without_a_condition():
    flow, x0 = Flow(gaussian(0.0, 0.5)), Rng(0).normal(torch.empty(64, 1))
    guided = Sampler(20, guidance=Guide(PerturbedTime(0.2), Extrapolate(2.0)))
    assert guided.evaluations == 2 * Sampler(20).evaluations
    assert (guided(flow, x0) - Sampler(20)(flow, x0)).abs().max() > 1e-3


class Half(nn.Module):
    """A network of a user with weights in bfloat16, which takes no other inputs."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2, dtype=torch.bfloat16)

    def forward(self, x, t, cond=None):
        return self.net(x)


def test_perturbed_time_calls_a_network_as_the_sampler_does():
    guidance = Guide(PerturbedTime(0.2), Extrapolate(2.0))
    made = Sampler(2, guidance=guidance)(Flow(Half()), torch.zeros(3, 2))
    assert made.dtype == torch.float32 and made.isfinite().all()


@pytest.mark.parametrize(
    "rule", [OverTime(2.0, Rising()), ZeroStar(2.0), Projected(2.0), Rescaled(Extrapolate(2.0))], ids=str
)
def test_one_batch_of_both_predictions_gives_the_same_as_two(rule):
    def field(x, t, cond):
        return torch.sin(x + cond["label"][:, None]) * (1 - t[:, None])

    x0, cond = Rng(0).normal(torch.empty(5, 3)), {"label": torch.arange(5.0)}
    both = [
        Sampler(6, guidance=Guide(Unconditional(10.0), rule, together=together))(Flow(field), x0, cond)
        for together in (True, False)
    ]
    assert torch.allclose(*both, atol=1e-6)
    assert not torch.allclose(both[0], Sampler(6, guidance=CFG(1.0, 10.0))(Flow(field), x0, cond), atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [lambda: ZeroStar(-1.0), lambda: OverTime(0.5, Rising()), lambda: Projected(math.inf), lambda: ZeroStar(2.0, 1.5)],
)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(BeelineError, match="give one"):
        wrong()
