"""Sums, schedules and smoothing of energies."""

from __future__ import annotations

import math

import pytest
import torch

from beeline.core.rng import Rng
from beeline.sampling.guidance.rules.scales import Rising
from beeline.sampling.steering.energies.combined import Scheduled, Smoothed, Sum
from beeline.sampling.steering.energies.squared import Near

X = Rng(0).normal(torch.empty(6, 2, dtype=torch.float64))
T = torch.linspace(0, 1, 6, dtype=torch.float64)


def test_a_sum_of_gaussians_is_the_energy_of_their_product():
    total = Sum((Near((1.0, 0.0)), Near((-1.0, 2.0), deviation=0.5)), weights=(1.0, 0.5))(X, T)
    product = Near((1 / 3 - 2 / 3, 4 / 3), deviation=(1 / 3) ** 0.5)(X, T)  # precisions 1 and 2
    assert torch.allclose(total - product, (total - product)[0].expand(6))


def test_a_schedule_weighs_times_inside_its_window():
    made = Scheduled(Near((0.0, 0.0)), 3.0, Rising(), (0.3, 0.9))(X, T)
    weights = torch.tensor([0, 0, 3 * 0.8, 3 * 1.2, 3 * 1.6, 0], dtype=torch.float64)
    assert torch.allclose(made, weights * X.square().sum(1) / 2)


def test_a_smoothed_quadratic_is_a_wider_quadratic():
    t = torch.full((6,), 0.25, dtype=torch.float64)
    variance = 1 + (0.8 * 0.75) ** 2
    exact = X.square().sum(1) / (2 * variance) + math.log(variance)
    assert float((Smoothed(Near((0.0, 0.0)), 0.8, samples=20_000)(X, t) - exact).abs().max()) < 0.05


def test_smoothing_does_not_depend_on_the_batch_and_ends_at_the_data():
    smoothed = Smoothed(Near((0.0, 0.0)), 0.8, samples=3)
    assert torch.allclose(smoothed(X, T)[2:4], smoothed(X[2:4], T[2:4]))
    assert torch.allclose(smoothed(X, T)[5:], Near((0.0, 0.0))(X, T)[5:])


def test_conditions_follow_their_samples():
    wanted = {"to": Rng(1).normal(X)}
    energy = lambda x1, t, cond: (x1 - cond["to"]).square().sum(1)  # noqa: E731
    t = torch.ones(6, dtype=torch.float64)
    assert torch.allclose(Smoothed(energy, 0.5)(X, t, wanted), energy(X, t, wanted))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sum(()), "0 energies"),
        (lambda: Sum((Near((0.0,)),), weights=(1.0, 2.0)), "1 energies and 2 weights"),
        (lambda: Scheduled(Near((0.0,)), window=(0.5, 0.2)), "no interval of times"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
