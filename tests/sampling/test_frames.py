"""Given frames: an exact field with a time for each part samples both conditional distributions."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.sampling.guidance.frames import GivenFrames
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler

MEAN, SIGMA = (
    torch.tensor([0.5, -1.0], dtype=torch.float64),
    torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64),
)


def exact(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
    """E[x1 - x0 | x_t] of a Gaussian pair x1 with x_t = t x1 + (1 - t) x0, part by part; x [B,2,1], t [B,2]."""
    a, b = torch.diag_embed(t), torch.diag_embed(1 - t)
    joint = a @ SIGMA @ a + b @ b
    shift = SIGMA @ a - b
    away = x - (t * MEAN)[:, :, None]
    return MEAN[:, None] + shift @ torch.linalg.solve(joint, away)


@pytest.mark.parametrize("given", [0, 1])
def test_either_part_is_sampled_given_the_other(given: int) -> None:
    free = 1 - given
    x0 = Rng(given).normal(torch.empty(50, 2, 1, dtype=torch.float64))
    made = Sampler(200, guidance=GivenFrames((given,)))(Flow(exact), x0)
    slope = SIGMA[0, 1] / SIGMA[given, given]
    std = (SIGMA[free, free] - slope * SIGMA[0, 1]).sqrt()
    wanted = MEAN[free] + slope * (x0[:, given] - MEAN[given]) + std * x0[:, free]  # the one-dimensional exact flow
    assert torch.equal(made[:, given], x0[:, given])
    assert torch.allclose(made[:, free], wanted, atol=1e-4)


def test_the_inner_guidance_takes_the_null_of_the_flow() -> None:
    flow = Flow(lambda x, t, cond: cond[:, None, None].to(x.dtype).expand_as(x), null=5)
    sampler = Sampler(2, guidance=GivenFrames((1,), CFG(3.0)))
    made = sampler(flow, torch.zeros(2, 2, 1), torch.tensor([1, 5]))
    assert torch.allclose(made[:, 0, 0], torch.tensor([-7.0, 5.0])) and bool((made[:, 1] == 0).all())
    assert sampler.guidance.calls(0.5) == 2


def test_refusals() -> None:
    with pytest.raises(BeelineError, match="indices from 0"):
        GivenFrames(())
    with pytest.raises(BeelineError, match="none twice"):
        GivenFrames((0,), waiting=(0, 1))
    with pytest.raises(BeelineError, match="indices below its size"):
        Sampler(1, guidance=GivenFrames((2,)))(Flow(exact), torch.zeros(3, 2, 1, dtype=torch.float64))
