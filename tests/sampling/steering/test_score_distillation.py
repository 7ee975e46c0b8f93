"""Score distillation as an energy, against its expectation for Gaussians."""

import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import Gaussian
from beeline.fields.flow import Flow
from beeline.sampling.guidance.references.conditions import OtherCondition
from beeline.sampling.steering.energies.distilled import ScoreDistillation

DISTRIBUTIONS = [
    Gaussian((1.0,), std=0.5),
    Gaussian((0.0,), std=1.5),
    Gaussian((-2.0,), std=1.0),
]  # the datum, null, poor


def field(x, t, cond):
    parts = torch.stack([distribution.field()(x, t) for distribution in DISTRIBUTIONS], 1)
    return torch.take_along_dim(parts, cond["label"][:, None, None], 1)[:, 0]


FLOW = Flow(field, null={"label": 1})
COND = {"label": torch.zeros(3, dtype=torch.long)}
X1 = torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64)
T = torch.ones(3)


def noise(distribution, x, t):
    """The expected noise of a Gaussian."""
    mean, std = distribution.mean[0], distribution.std
    return (1 - t) * (x - t * mean) / (t**2 * std**2 + (1 - t) ** 2)


@pytest.mark.parametrize("noise_free", [True, False])
def test_the_mean_gradient_is_the_exact_one(noise_free):
    """E over noise of a linear expected noise is its value at a x1; the noise itself has mean zero."""
    energy = ScoreDistillation(FLOW, 3.0, noise_free, OtherCondition({"label": 2}), samples=20_000)
    t = torch.linspace(0.02, 0.98, 40_001, dtype=torch.float64)
    exact = []
    for x1 in X1[:, 0]:
        strong, weak, poor = (noise(distribution, t * x1, t) for distribution in DISTRIBUTIONS)
        early = torch.where(t >= 0.8, weak, weak - poor) if noise_free else weak
        exact.append((t * (3.0 * (strong - weak) + early)).mean())
    assert torch.allclose(energy.gradient(X1, COND)[:, 0], torch.stack(exact), atol=0.02)


def test_the_gradient_of_the_energy_is_that_of_the_definition():
    energy = ScoreDistillation(FLOW)
    x1 = X1.clone().requires_grad_(True)
    value = energy(x1, T, COND)
    gradient = energy.gradient(X1, COND)
    assert torch.allclose(torch.autograd.grad(value.sum(), x1)[0], gradient)
    assert torch.allclose(value, gradient.flatten(1).square().sum(1) / 2)
    assert torch.equal(energy(x1, T, COND), value)  # the noises are those of the key


def test_points_move_to_the_condition():
    x = X1.clone()
    for k in range(200):
        leaf = x.requires_grad_(True)
        energy = ScoreDistillation(FLOW, 3.0, rng=Rng(k))
        x = (leaf - 0.1 * torch.autograd.grad(energy(leaf, T, COND).sum(), leaf)[0]).detach()
    assert (x - 1.0).abs().max() < 1.0
