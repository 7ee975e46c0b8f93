"""Several concepts in one picture, each in its region."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.declared import traits_of
from beeline.core.errors import require
from beeline.core.protocols.editing import EditRegion, Inversion
from beeline.core.ranges import Early, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.networks.adapters.low_rank import with_adapters
from beeline.networks.attending.blocks import blocks_with_attention
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class MaskedAdapters:
    """Inverts, and samples with several low-rank adapters, each for the tokens of its region (LoRAShop).

    y = W x + sum_k m_k scale_k U_k D_k x,  m_k the region k over the tokens of a picture
    Where regions overlap, the token belongs to that with the largest weight.  Regions of concepts follow from
    attention to their words in an evaluation before: ``AttentionRegion((4,), of_new=True)``.  What is outside of all
    regions is kept by ``Within``.  Without adapters it is ``InvertAndSample``.
    Assumes a network that declares the tokens of an image, and adapters ``LowRank`` that are not merged into weights.
    Source: Dalva et al. 2025, "LoRAShop: Training-Free Multi-Concept Image Generation and Editing with Rectified Flow
    Transformers" (arXiv 2505.23758); Yang et al. 2024, "LoRA-Composer" (arXiv 2403.11627), regions of adapters.

    >>> MaskedAdapters().start
    0.0
    """

    adapters: tuple[Any, ...] = ()  # each a LowRank
    regions: tuple[EditRegion, ...] = ()  # one of each adapter
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time of the state between; later ones keep more of the data

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapters", tuple(self.adapters))
        object.__setattr__(self, "regions", tuple(self.regions))
        require(
            len(self.adapters) == len(self.regions),
            f"MaskedAdapters got {len(self.adapters)} adapters and {len(self.regions)} regions; give one region for "
            "each adapter",
        )

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        blocks_with_attention(flow.field)  # refuses a field without tokens
        if not self.adapters:
            return InvertAndSample(self.inversion, self.start)(flow, x, cond, new_cond, sampler, rng)
        regions = [r(flow, x, cond, new_cond, rng.fork("region", k)) for k, r in enumerate(self.regions)]
        tokens = traits_of(flow.field).tokens
        assert tokens is not None
        grid = tokens(tuple(x.shape[1:]))
        masks = disjoint([over_tokens(r.to(x).expand(x.shape), grid.rows, grid.columns) for r in regions])
        state = self.inversion(flow, x, cond, sampler, rng, self.start)
        adapted = with_adapters(flow.field, self.adapters, masks)
        return sampler(replace(flow, field=adapted), state.x, new_cond, start=state.t)


def over_tokens(region: Tensor, rows: int, columns: int) -> Tensor:
    """A region [B,C,H,W] as weights [B,N] of tokens: the means over their pixels."""
    return F.adaptive_avg_pool2d(region.mean(1, keepdim=True), (rows, columns)).flatten(1)


def disjoint(masks: list[Tensor]) -> list[Tensor]:
    """Weights [B,N] of several regions, of which every token keeps the largest; the first of equal ones.

    >>> disjoint([torch.tensor([[1.0, 0.2]]), torch.tensor([[1.0, 0.5]])])
    [tensor([[1., 0.]]), tensor([[0.0000, 0.5000]])]
    """
    stacked = torch.stack(masks)
    best = stacked.argmax(0)
    return [torch.where(best == k, mask, 0.0) for k, mask in enumerate(masks)]
