"""Colours carried through two flows."""

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.runs.editing.colours import fit_colours, transfer_colours
from beeline.sampling.editing.between import BetweenFlows


def gaussian(mean, std):
    """The exact flow of N(mean, std^2)."""

    def v(x, t):
        t = t[:, None]
        return mean + (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2) * (x - t * mean)

    return bl.Flow(v)


def test_between_gaussians_the_map_is_the_affine_one():
    x = 1.0 + 0.5 * bl.Rng(0).normal(torch.empty(64, 3))
    first, then, how = gaussian(1.0, 0.5), gaussian(-2.0, 0.2), bl.Sampler(64, solver=bl.solvers.RK4)
    assert (BetweenFlows()(first, then, x, how) - (-2 + 0.4 * (x - 1))).abs().max() < 1e-4
    assert (BetweenFlows()(first, first, x, bl.Sampler(8, solver=bl.solvers.Reversible())) - x).abs().max() < 1e-5
    assert torch.equal(BetweenFlows(0.0)(first, then, x, how), x)
    half = BetweenFlows(0.5)(first, then, x, how)
    assert float((half - x).abs().mean()) < float((BetweenFlows()(first, then, x, how) - x).abs().mean())


def picture(mean, std, seed):
    z = bl.Rng(seed).normal(torch.empty(3, 32, 32))
    return (torch.tensor(mean).view(3, 1, 1) + std * z).clamp(0, 1)


@pytest.mark.slow
def test_a_picture_gets_the_colours_of_another():
    content, style = picture((0.3, 0.4, 0.5), 0.05, 0), picture((0.6, 0.5, 0.4), 0.1, 1)
    flows = [fit_colours(p, steps=400) for p in (content, style)]
    made = transfer_colours(content, flows[1], flow=flows[0])
    gap = (made.mean((1, 2)) - style.mean((1, 2))).abs().max()
    assert float(gap) < 0.1 * 0.3 and (made.std((1, 2)) / style.std((1, 2)) - 1).abs().max() < 0.25
    back = transfer_colours(content, flows[0], flow=flows[0], sampler=bl.Sampler(16, solver=bl.solvers.Symmetric()))
    assert (back - content).abs().max() < 2 / 255


def test_refusals():
    with pytest.raises(BeelineError, match=r"\[3,H,W\]"):
        fit_colours(torch.zeros(1, 4, 4))
    with pytest.raises(BeelineError, match="255"):
        fit_colours(torch.full((3, 4, 4), 255.0))
