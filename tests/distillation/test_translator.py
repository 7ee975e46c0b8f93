"""Translators of linear generators against the exact posterior, and Langevin steps that keep it."""

from dataclasses import replace

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.distillation.controls.translator import QUICK, Translator, refined, translated

C, NOISE = torch.tensor([[1.0, 0.5, 0.0], [0.0, -0.8, 0.6]]), 0.5
GAIN = C.T @ torch.linalg.inv(C @ C.T + NOISE**2 * torch.eye(2))
COVARIANCE = torch.eye(3) - GAIN @ C  # of the posterior of x0 given c = C x0 + NOISE n, whose mean is GAIN c
GIVEN = torch.tensor([[1.0, -0.5]])


def energy(x0: torch.Tensor) -> torch.Tensor:
    return (x0 @ C.T - GIVEN).square().sum(1) / (2 * NOISE**2)


def test_one_component_is_the_posterior_of_a_linear_generator() -> None:
    x0 = Rng(0).normal(torch.empty(30_000, 3))
    training = replace(QUICK, steps=300)
    net = translated(lambda z: z, lambda x: x @ C.T, x0, Rng(1), components=1, noise=NOISE, training=training)
    logits, means = (part.detach() for part in net(GIVEN))
    assert (means[0, 0] - GIVEN[0] @ GAIN.T).abs().max() < 0.04
    factor = net.factors()[0]
    assert (factor @ factor.T - COVARIANCE).abs().max() < 0.04
    wanted = torch.distributions.MultivariateNormal(GIVEN[0] @ GAIN.T, COVARIANCE).log_prob(x0[:99])
    assert (net.log_prob(x0[:99], GIVEN.expand(99, 2)) - wanted).abs().mean() < 0.1
    made = net.sample(GIVEN.expand(20_000, 2), Rng(2))
    assert (torch.cov(made.T) - factor @ factor.T).abs().max() < 0.05 and float(logits) == 0


def test_several_components_have_the_density_of_a_mixture() -> None:
    with Rng(0).ambient():
        net = Translator(2, (1, 3), components=4)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.4)
    c, x0 = Rng(1).normal(torch.empty(5, 2)), Rng(2).normal(torch.empty(5, 1, 3))
    logits, means = net(c)
    normal = torch.distributions.MultivariateNormal(means, scale_tril=net.factors())
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), normal)
    assert torch.allclose(net.log_prob(x0, c), mixture.log_prob(x0[:, 0]), atol=1e-5)
    made = net.sample(c[:1].expand(40_000, 2), Rng(3))[:, 0]
    assert (made.mean(0) - mixture.mean[0]).abs().max() < 0.03


def test_langevin_steps_keep_the_posterior_and_need_the_prior() -> None:
    start = Rng(0).normal(torch.empty(4000, 3)) @ torch.linalg.cholesky(COVARIANCE).T + GIVEN @ GAIN.T
    kept = refined(start, energy, Rng(1), steps=150, size=0.05)
    assert torch.cov(kept.T).trace() == pytest.approx(float(COVARIANCE.trace()), rel=0.05)
    assert (kept.mean(0) - GIVEN[0] @ GAIN.T).abs().max() < 0.06
    free = refined(start, lambda z: energy(z) - z.square().sum(1) / 2, Rng(1), steps=150, size=0.05)
    assert torch.cov(free.T).trace() > 2 * COVARIANCE.trace(), "without the prior"


def test_wrong_settings_are_refused() -> None:
    for call, message in (
        (lambda: Translator(0, (2,)), "size=0"),
        (lambda: translated(lambda z: z, lambda x: x[:, 0], torch.zeros(4, 2), Rng(0), training=QUICK), "one vector"),
        (lambda: translated(lambda z: z, lambda x: x, torch.zeros(0, 2), Rng(0)), "0 points of noise"),
    ):
        with pytest.raises(BeelineError, match=message):
            call()
