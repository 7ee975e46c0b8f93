"""Guidance towards the low frequencies of a guide."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.sampling.guidance.projected import ProjectedFlow, block_means

GENERATOR = torch.Generator().manual_seed(0)
X0, GUIDE = torch.randn(2, 2, 3, 8, 12, generator=GENERATOR).unbind()
FLOW = bl.Flow(lambda x, t, cond=None: torch.sin(3 * x) + t[:, None, None, None])
SAMPLER = bl.Sampler(6, solver=bl.solvers.EULER)


def sampled(guidance, flow=FLOW, guide=GUIDE, **more):
    return replace(SAMPLER, guidance=guidance)(flow, X0, {"guide": guide, **more})


def test_block_means_are_an_orthogonal_projection():
    once = block_means(X0, 4)
    assert torch.allclose(block_means(once, 4), once, atol=1e-6)
    assert torch.allclose((once * GUIDE).sum(), (X0 * block_means(GUIDE, 4)).sum(), atol=1e-4)
    assert torch.allclose(
        block_means(X0, 2)[:, :, :2, 2:4], X0[:, :, :2, 2:4].mean((2, 3), keepdim=True).expand(-1, -1, 2, 2)
    )


@pytest.mark.parametrize("solver", [bl.solvers.EULER, bl.solvers.DPMSolver(2)])
def test_low_frequencies_are_those_of_the_guide_and_high_ones_of_the_field(solver):
    guidance = ProjectedFlow(block=4, until=math.inf)
    found = replace(SAMPLER, solver=solver, guidance=guidance)(FLOW, X0, {"guide": GUIDE})
    assert (block_means(found, 4) - block_means(GUIDE, 4)).abs().max() < 1e-5
    high = found - block_means(found, 4)
    assert (high - (GUIDE - block_means(GUIDE, 4))).norm() > 0.1 * high.norm()


def test_without_strength_it_is_plain_sampling():
    plain = SAMPLER(FLOW, X0)
    assert torch.equal(sampled(ProjectedFlow(strength=0.0)), plain)
    near = (sampled(ProjectedFlow()) - GUIDE, sampled(ProjectedFlow(until=0.2)) - GUIDE, plain - GUIDE)
    low = [float(block_means(part, 2).norm()) for part in near]
    assert low[0] < low[1] < low[2]


def test_the_field_gets_the_rest_of_the_condition_under_its_own_guidance():
    flow = bl.Flow(lambda x, t, cond=None: 0 * x + cond["y"][:, None, None, None], null={"y": 0.0})
    y = torch.tensor([1.0, 2.0])
    found = sampled(ProjectedFlow(bl.CFG(3.0), strength=0.0), flow, y=y)
    assert torch.allclose(found, X0 + 3 * y[:, None, None, None], atol=1e-5)


@pytest.mark.parametrize(
    "guidance, flow, guide, message",
    [
        (ProjectedFlow(block=5), FLOW, GUIDE, "no whole blocks of side 5"),
        (ProjectedFlow(), FLOW, GUIDE[:, :, :4], "enlarge the guide"),
        (ProjectedFlow(name="other"), FLOW, GUIDE, "without 'other'"),
        (ProjectedFlow(), replace(FLOW, path=bl.paths.Cosine()), GUIDE, "a flow on Cosine"),
    ],
)
def test_what_cannot_be_projected_is_refused(guidance, flow, guide, message):
    with pytest.raises(BeelineError, match=message):
        sampled(guidance, flow, guide)
