"""Guidance whose attention merges tokens that are similar and matter little to the guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.declared import TokenGrid, is_map, traits_of
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.networks.merging import Groups, MergedAttention, grouped
from beeline.networks.skipping import block_names
from beeline.paths.affine import Linear
from beeline.sampling.guidance.guide import Guide, OfGuide
from beeline.solvers.process import FieldReadout


@dataclass(frozen=True)
class MergedTokens(OfGuide):
    """Guidance in whose attention similar tokens are merged, with those that guidance changes most as destinations.

    importance_i = |strong - weak| at token i;  destinations: chosen at random among the ``pool`` most important tokens
    Of the other tokens, those that are nearest to a destination join it.  A group has the mean query, key and value of
    its tokens, its key has ln(size) added to its logits, and its output is that of all its tokens.  Distances are those
    of the patches of the data estimate x + (1 - t) v, so that all blocks and both predictions have the same groups.
    Importance and data estimate are those of the evaluation before; the first one merges nothing.
    Assumes the straight path, images, and a network that declares its tokens (``Traits.tokens``).
    Source: Wu et al. 2024, "Importance-based Token Merging" (arXiv 2411.16720); Bolya and Hoffman 2023 (arXiv
    2303.17604); ln(size): Bolya et al. 2022 (arXiv 2210.09461).

    >>> from beeline.sampling.guidance.guide import CFG
    >>> MergedTokens(CFG(3.0, null=10), merged=0.25).calls(0.5)
    2
    """

    guidance: Guidance  # a Guide, such as CFG(scale)
    merged: Share = 0.5  # of the tokens, which join others; at most 1 - destinations
    destinations: Share = 0.25  # of the tokens, which others can join
    pool: Share = 0.5  # of the tokens, among which destinations are chosen; 1 is a choice by chance
    rng: Rng = Rng(0)  # of the choice, which is the same for all samples of a batch

    def __post_init__(self) -> None:
        require(
            isinstance(self.guidance, Guide),
            f"MergedTokens got {type(self.guidance).__name__}; the importance of a token is the difference of two "
            "predictions: give a Guide, such as CFG(3.0)",
        )
        require(
            0 < self.destinations <= self.pool and self.merged + self.destinations <= 1,
            f"MergedTokens got merged={self.merged:g}, destinations={self.destinations:g} and pool={self.pool:g}; "
            "destinations are chosen from the pool and are not merged themselves: set 0 < destinations <= pool and "
            "merged <= 1 - destinations",
        )

    def for_flow(self, flow: Flow) -> Any:
        """The guidance with the inner one for ``flow``; raises ValueError for another path than the straight one."""
        require(
            isinstance(flow.path, Linear),
            f"MergedTokens got a flow on {type(flow.path).__name__}; its data estimate is that of the straight path: "
            "convert the flow with convert_flow(flow, Linear())",
        )
        return super().for_flow(flow)

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        if isinstance(field, FieldReadout):
            return self.guide(field, cond)
        tokens = self.check(field)
        alone, both = self.guide.predictions(field, cond)
        combine = self.guide.rule.for_run()
        low, high = self.guide.window
        found: list[Groups] = []
        count = 0

        def f(x: Tensor, t: Tensor) -> Tensor:
            nonlocal count
            grid = tokens(tuple(x.shape[1:]))
            times = host_times(t)
            inside = bool(((times >= low) & (times <= high)).all())
            evaluate: Callable[..., Any] = both if inside else alone
            if found and len(found[0].owner) == len(x) and self.merged > 0:
                with MergedAttention(found[0], grid):
                    made = evaluate(x, t)
            else:
                made = evaluate(x, t)
            if not inside:
                v: Tensor = made
                return v
            strong, weak = made
            v, count = combine(strong, weak, x, t), count + 1
            found[:] = [self.groups(x + (1 - expand_time(t, x)) * v, strong - weak, grid, self.rng.fork(count))]
            return v

        return f

    def check(self, field: Any) -> Callable[..., TokenGrid]:
        """The grid of tokens by the shape of an image; raises ValueError for a field without one."""
        require(
            not is_map(field) and bool(block_names(field)) and traits_of(field).tokens is not None,
            f"tokens of {type(field).__name__} were to be merged, and it does not declare which ones are those of the "
            "image, or is a flow map; use networks.DiT, or a bundle of FLUX or Stable Diffusion 3",
        )
        tokens = traits_of(field).tokens
        assert tokens is not None
        return tokens

    def groups(self, data: Tensor, change: Tensor, grid: TokenGrid, rng: Rng) -> Groups:
        """The groups of the tokens of images ``data`` [B,C,H,W] under a change [B,C,H,W] by guidance."""
        n = grid.rows * grid.columns
        importance = patches(change, grid).square().sum(2)
        most = importance.argsort(dim=1, descending=True, stable=True)[:, : max(1, round(self.pool * n))]
        chance = rng.uniform(n, importance)[None].expand_as(importance)
        score = torch.full_like(importance, -1.0).scatter(1, most, chance.gather(1, most))
        destinations = max(1, round(self.destinations * n))
        return grouped(patches(data, grid), score, destinations, min(round(self.merged * n), n - destinations))

    def calls(self, t: float) -> int:
        return self.guide.calls(t)


def patches(x: Tensor, grid: TokenGrid) -> Tensor:
    """[B,C,H,W] -> [B,rows*columns,C*h*w], with zeros where the image has no whole patch."""
    h, w = -(-x.shape[2] // grid.rows), -(-x.shape[3] // grid.columns)
    x = F.pad(x, (0, w * grid.columns - x.shape[3], 0, h * grid.rows - x.shape[2]))
    return F.unfold(x, (h, w), stride=(h, w)).mT
