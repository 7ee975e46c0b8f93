"""The TrigFlow convention: conversion there and back, and the velocity of the angle in closed form."""

from __future__ import annotations

import math

import pytest
import torch

import beeline as bl
from beeline.core.declared import as_map
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.trigflow import FromTrigFlow, ToTrigFlow, trigflow_times

MIXTURE = GaussianMixture([[-1.5, 0.5], [1.0, -1.0]], [0.4, 0.6])


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_there_and_back_is_the_identity(spread: float) -> None:
    field, x, t = MIXTURE.field(), torch.randn(64, 2, dtype=torch.float64), torch.rand(64, dtype=torch.float64)
    again = FromTrigFlow(ToTrigFlow(field, spread), spread)
    assert torch.allclose(again(x, t), field(x, t), atol=1e-12)
    tau = t * math.pi / 2
    twice = ToTrigFlow(FromTrigFlow(lambda y, r: y * r[:, None], spread), spread)
    assert torch.allclose(twice(x, tau), x * tau[:, None], atol=1e-12)


def test_it_is_the_velocity_along_the_angle() -> None:
    """Of data with standard deviation spread: x = cos(tau) x1 + sin(tau) spread x0 follows spread F."""
    spread = 0.5
    flow = bl.Flow(MIXTURE.field())
    x0 = torch.randn(32, 2, dtype=torch.float64)
    h = 1e-4
    t = torch.full((32,), 0.4, dtype=torch.float64)
    x = bl.integrate(flow.field, x0, torch.linspace(0, 0.4, 81, dtype=torch.float64), bl.solvers.RK4)
    short = [torch.tensor([0.4, 0.4 + d], dtype=torch.float64) for d in (h, -h)]
    ends = [bl.integrate(flow.field, x, times, bl.solvers.RK4) for times in short]
    (a, ca, _), (b, cb, _) = (trigflow_times(t + d, spread) for d in (h, -h))
    slope = (ends[0] / ca[:, None] - ends[1] / cb[:, None]) / (a - b)[:, None]
    tau, c, _ = trigflow_times(t, spread)
    assert torch.allclose(spread * ToTrigFlow(flow.field, spread)(x / c[:, None], tau), slope, atol=1e-5)
    assert torch.allclose(tau.cos(), t / c) and torch.allclose(tau.sin() * spread, (1 - t) / c)


def test_what_cannot_be_converted_is_refused() -> None:
    for kind in (ToTrigFlow, FromTrigFlow):
        with pytest.raises(ValueError, match="give a number above 0"):
            kind(lambda x, t: x, 0.0)
        with pytest.raises(ValueError, match="give a network with one time"):
            kind(as_map(lambda x, t, cond=None, s=None: x))
