"""Refined noise: exact pairs of Gaussians, a trained refiner, and what a sampler of it does."""

from __future__ import annotations

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import Gaussian
from beeline.distillation.pairs import refined_pairs
from beeline.sampling.refined import RefinedNoise
from beeline.training.config import Training
from beeline.training.fit import fit

STRONG, WEAK = Gaussian((1.5,), 1.0), Gaussian((0.0,), 2.0)
FLOW = bl.Flow(STRONG.field())
GUIDED = bl.Sampler(20, guidance=bl.Guide(bl.guidance.Weak(WEAK.field()), bl.guidance.Extrapolate(2.0)))


@pytest.fixture(scope="module")
def pairs():
    return refined_pairs(FLOW, GUIDED, bl.Sampler(20), 1500, bl.Rng(0), like=torch.empty(1, 1))


def test_pairs_are_those_of_the_exact_maps(pairs):
    """Both flows of Gaussians are affine: the plain one maps z to 1.5 + z."""
    assert torch.allclose(pairs.x1 + 1.5, GUIDED(FLOW, pairs.x0), atol=5e-3)
    assert torch.allclose(bl.Sampler(20)(FLOW, pairs.x1), GUIDED(FLOW, pairs.x0), atol=5e-3)


def test_a_small_network_learns_the_refinement(pairs):
    with bl.Rng(1).ambient():
        net = bl.Network(bl.networks.MLP(1, width=16, depth=1))
    objective = bl.objectives.FlowMatching(coupling=bl.couplings.Paired(), times=bl.times.At(0.0))
    net = fit(net, objective, pairs, Training(steps=150, batch_size=256, ema=None), log=lambda entry: None)
    sampler = RefinedNoise(20, refiner=net)
    x0 = bl.Rng(9).normal(torch.empty(200, 1))
    wanted = GUIDED(FLOW, x0)
    change = float((wanted - bl.Sampler(20)(FLOW, x0)).square().mean().sqrt())
    assert float((sampler(FLOW, x0) - wanted).square().mean().sqrt()) < 0.1 * change
    assert sampler.evaluations == 41 and GUIDED.evaluations == 80
    keyed = sampler.seeded(range(4), 0)
    assert torch.allclose(keyed.for_rows(1, 3)(FLOW, x0[1:3]), keyed(FLOW, x0[:4])[1:3], atol=1e-5)


def test_wrong_uses_are_refused():
    sampler = RefinedNoise(4, refiner=lambda x, t, cond=None: x)
    with pytest.raises(BeelineError, match="refines noise at t = 0"):
        sampler(FLOW, torch.zeros(1, 1), start=0.5)
    with pytest.raises(BeelineError, match="refines noise at t = 0"):
        sampler.invert(FLOW, torch.zeros(1, 1))
    with pytest.raises(BeelineError, match="pass a network in Python"):
        RefinedNoise(4, refiner="net")
