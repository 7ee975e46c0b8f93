"""Distributions of training times: density against histogram, integral one, limits."""

import math

import pytest
import torch

from beeline.core.protocols.flows import TimeSampler
from beeline.core.rng import Rng
from beeline.times.samplers import At, Beta, Bifocal, CosMap, LogitNormal, Mode, Uniform, UShaped

DISTRIBUTIONS = [
    Uniform(),
    LogitNormal(),
    LogitNormal(-0.5, 1.4),
    UShaped(4.0),
    UShaped(0.0),
    CosMap(),
    Mode(),
    Beta(),
    Bifocal(),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_density_matches_the_samples(distribution: TimeSampler) -> None:
    cells = 2_000
    middle = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    density = distribution.log_prob(middle).exp()
    assert float(density.mean()) == pytest.approx(1.0, abs=6e-3)
    samples = distribution(60_000, torch.empty(0, dtype=torch.float64), Rng(0))
    assert 0 <= float(samples.min()) and float(samples.max()) <= 1
    counts = torch.histc(samples, 20, 0, 1) / len(samples)
    expected = density.reshape(20, -1).mean(1) / 20
    assert float(((counts - expected).abs() / (expected / len(samples)).sqrt().clamp(min=1e-4)).max()) < 6


def test_log_prob_outside_and_dtype() -> None:
    for distribution in DISTRIBUTIONS:
        assert bool((distribution.log_prob(torch.tensor([-0.5, 1.5])) == -math.inf).all())
        assert distribution(3, torch.empty(0, dtype=torch.float64), Rng(0)).dtype == torch.float64
        assert torch.equal(distribution(5, torch.empty(0), Rng(1)), distribution(5, torch.empty(0), Rng(1)))


def test_at_is_a_point_mass() -> None:
    assert torch.equal(At(0.25)(3, torch.empty(0), Rng(0)), torch.full((3,), 0.25))
    assert At(0.25).log_prob(torch.tensor([0.25, 0.5])).tolist() == [math.inf, -math.inf]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="LogitNormal got std=0"):
        LogitNormal(std=0)
    with pytest.raises(ValueError, match="UShaped got a=-1"):
        UShaped(-1)
    with pytest.raises(ValueError, match="At got t=2"):
        At(2)
