"""A recurrent network over the depth of a frozen one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Wrapping
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.fp32 import zeroed
from beeline.networks.hooks import named_blocks


class DepthReader(Wrapping):
    """A recurrent network that reads the outputs of the blocks of a frozen network and changes the last one.

    s_l = GRU(D h_l, s_{l-1}),  s_0 = 0;  v = out(h_L + U s_L),  U = 0 at first
    The weights are the same at every depth, so that their number does not depend on it.  The blocks are evaluated
    without a graph: no activation of the base is kept for the backward pass.  It cannot be merged.
    Assumes a network that declares its blocks, with features [B,...,channels], and can be divided into stages.
    Source: Sung, Cho and Bansal 2022 (arXiv 2206.06522) for side networks; Nguyen et al. 2023, "READ: Recurrent
    Adaptation of Large Transformers" (arXiv 2305.15348).

    >>> from beeline.networks.mlp import MLP
    >>> DepthReader(MLP(2, width=16), channels=16, rank=4)(torch.zeros(3, 2), torch.zeros(3)).shape
    torch.Size([3, 2])
    """

    def __init__(self, field: nn.Module, channels: int, rank: int = 16):
        super().__init__()
        require(
            len(named_blocks(field)) >= 1 and rank >= 1,
            f"DepthReader got rank={rank} and a network of {len(named_blocks(field))} blocks, whose outputs it reads; "
            "give a rank from 1, and a network that declares its blocks, such as MLP or DiT",
        )
        self.field = field.requires_grad_(False)
        self.channels, self.rank = channels, rank
        self.down, self.cell = nn.Linear(channels, rank), nn.GRUCell(rank, rank)
        self.up = zeroed(nn.Linear(rank, channels))
        weight = next(field.parameters(), None)
        for part in (self.down, self.cell, self.up):
            part.to(None if weight is None else weight.device)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "channels": self.channels, "rank": self.rank}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        seen: list[Tensor] = []
        with torch.no_grad():
            stages = self.field.stages(x, t, cond)  # type: ignore[operator]
            require(
                stages is not None,
                f"{type(self.field).__name__} cannot be divided into stages here, and DepthReader changes the features "
                "before its last layer; use a network whose blocks follow one another, without plans",
            )
            h = stages.h
            for block, told in zip(named_blocks(self.field).values(), stages.told, strict=False):
                h = block(h, *told)
                seen.append(h)
        state: Tensor | None = None
        for features in seen:
            state = self.cell(self.down(features.to(self.down.weight.dtype)).flatten(0, -2), state)
        change: Tensor = self.up(state).view(h.shape)
        out: Tensor = stages.out(h + change.to(h.dtype), *stages.told[-1])
        return out
