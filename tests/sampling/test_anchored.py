"""Anchored trajectories: fixed points of straight flows, and gradients through every step."""

from __future__ import annotations

import math

import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow
from beeline.sampling.anchored import Anchored
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.energies.squared import Near
from beeline.sampling.steering.gradients.training_free import TFG
from beeline.solvers.reversible import Reversible
from beeline.solvers.runge_kutta import EULER
from beeline.spaces.tokens import TokenJumps

STRAIGHT = Flow(lambda x, t, cond=None: torch.ones_like(x))
RING = GaussianMixture.ring()


def points(n=4):
    return Rng(0).normal(torch.empty(n, 2, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("strength", [0.5, 3.0, math.inf])
def test_the_end_is_the_fixed_point_of_a_straight_flow(steps, strength):
    target = torch.tensor([2.0, -1.0], dtype=torch.float64)
    sampler = Anchored(steps, solver=EULER, energy=Near(target), strength=strength, rate=0.3, iterations=120)
    plain = points() + 1
    wanted = target.expand(4, 2) if strength == math.inf else (plain + strength * target) / (1 + strength)
    assert torch.allclose(sampler(STRAIGHT, points()), wanted, atol=1e-6)


def test_the_anchor_converges_where_the_repeated_formula_does_not():
    target, strength, x = 2.0, 3.0, 1.0
    for _ in range(30):
        x = 1.0 - strength * (x - target)  # x1 = reference - strength grad E(x1), put in again and again
    assert abs(x) > 1e6
    sampler = Anchored(1, solver=EULER, energy=Near((target,)), strength=strength, rate=0.5, iterations=60)
    assert float(sampler(STRAIGHT, torch.zeros(1, 1, dtype=torch.float64))) == pytest.approx(7 / 4, abs=1e-9)


def test_the_first_move_is_the_gradient_through_all_steps_of_bounded_norm():
    energy, x0, h = Near((2.8, 2.8), deviation=0.3), points(), 1 / 3
    made = Anchored(3, solver=EULER, energy=energy, rate=0.1, iterations=1)(Flow(RING.field()), x0)
    offsets = torch.zeros(3, 4, 2, dtype=torch.float64, requires_grad=True)

    def run(offsets):
        x = x0
        for k in range(3):
            x = x + offsets[k]
            x = x + h * RING.field()(x, torch.full((4,), k * h, dtype=torch.float64))
        return x

    (slope,) = torch.autograd.grad(energy(run(offsets), torch.ones(4)).sum(), offsets)
    moves = -0.1 * slope / slope.norm(dim=2, keepdim=True).clamp(min=1)
    assert torch.allclose(made, run(h * moves), atol=1e-6)  # times in float32


def test_the_energy_of_samples_falls_and_no_energy_is_plain_sampling():
    energy, x0 = Near((2.83, 2.83)), points(8)
    flow = Flow(RING.field())
    before = energy(Sampler(4, solver=EULER)(flow, x0), torch.ones(8))
    after = energy(Anchored(4, solver=EULER, energy=energy, iterations=30)(flow, x0), torch.ones(8))
    assert bool((after < before).all())
    flat = Anchored(4, solver=EULER, energy=lambda x1, t, cond=None: 0 * x1.sum(1), iterations=2)
    assert torch.equal(flat(flow, x0), Sampler(4, solver=EULER)(flow, x0))


def test_evaluations_are_those_of_the_field():
    count = 0

    def field(x, t, cond=None):
        nonlocal count
        count += 1
        return x * 0

    sampler = Anchored(3, energy=Near((1.0, 1.0)), iterations=4)
    sampler(Flow(field), points())
    assert count == sampler.evaluations == 5 * 6


@pytest.mark.parametrize(
    ("change", "call", "message"),
    [
        ({"controllers": (TFG(Near((1.0, 1.0))),)}, {}, "controllers; it differentiates"),
        ({}, {"start": 1.0, "end": 0.0}, "use a Sampler for inversion"),
        ({"solver": Reversible()}, {}, "one copy of it only"),
        ({"solver": TokenJumps()}, {}, "TokenJumps"),
        ({}, {"cond": torch.zeros(3)}, "for a batch of 4"),
        ({"energy": lambda x1, t, cond=None: x1.detach().sum(1)}, {}, "without gradient"),
    ],
)
def test_wrong_uses_are_refused(change, call, message):
    with pytest.raises(ValueError, match=message):
        Anchored(**{"steps": 2, "energy": Near((1.0, 1.0)), **change})(STRAIGHT, points(), **call)
