"""Gradients through several steps: those of automatic differentiation, with the memory of one evaluation."""

from __future__ import annotations

import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.paths.affine import Linear
from beeline.sampling.steering.gradients.estimates import OneStep, SeveralSteps

FIELD = GaussianMixture.ring().field()


def energy(x1, t, cond=None):
    return (x1[:, 0] - 2.83).square()


def field(x, t):
    return FIELD(x, t)


def points():
    return Rng(0).normal(torch.empty(7, 2, dtype=torch.float64)), torch.linspace(0.1, 0.9, 7, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_gradient_is_that_of_automatic_differentiation(steps):
    x, t = points()
    found = SeveralSteps(steps)(energy, field, Linear(), x, t, None)
    whole = x.clone().requires_grad_()
    y, h = whole, (1 - t) / steps
    for k in range(steps):
        y = y + h[:, None] * field(y, t + k * h)
    energy(y, t).sum().backward()
    assert torch.allclose(found.found.slope, whole.grad, rtol=0, atol=1e-12 * float(whole.grad.abs().max()))
    assert torch.allclose(found.found.data, y) and torch.equal(found.velocity, field(x, t))


def test_one_of_several_steps_is_the_mean_datum():
    x, t = points()
    one, several = (estimate(energy, field, Linear(), x, t, None) for estimate in (OneStep(), SeveralSteps(1)))
    assert torch.allclose(one.velocity, several.velocity)
    assert all(torch.allclose(a, b) for a, b in zip(one.found, several.found, strict=True))


class Stored:
    """A tensor that a graph stores; counts those that exist."""

    alive, most = 0, 0

    def __init__(self, tensor):
        self.tensor = tensor
        Stored.alive += 1
        Stored.most = max(Stored.most, Stored.alive)

    def __del__(self):
        Stored.alive -= 1


def stored(steps):
    x, t = points()
    Stored.alive = Stored.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Stored, lambda box: box.tensor):
        SeveralSteps(steps)(energy, lambda x, t: x.sin() * x.cos(), Linear(), x, t, None)
    return Stored.most


def test_the_memory_does_not_grow_with_the_steps():
    assert 0 < stored(2) == stored(9)


def test_more_steps_estimate_the_end_better():
    x, _ = points()
    t = torch.full((7,), 0.2, dtype=torch.float64)
    ends = [SeveralSteps(n)(energy, field, Linear(), x, t, None).found.data for n in (1, 4, 200)]
    assert (ends[1] - ends[2]).norm() < 0.25 * (ends[0] - ends[2]).norm()
