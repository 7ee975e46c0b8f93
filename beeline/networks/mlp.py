"""Multilayer perceptron for vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.declared import Declaring, Stages, Traits, nulls_of_labels
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.checks import check_dropout, check_sizes
from beeline.networks.embed import Conditions, Embedding, check_state, dtype_of
from beeline.networks.fp32 import zeroed


class MLPBlock(nn.Module):
    """h + W silu((1 + scale) h + shift), with scale and shift from time and condition."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        u = F.silu(torch.addcmul(h + shift, h, scale))
        out: Tensor = h + self.out(self.dropout(u))
        return out


class MLP(Declaring):
    """A residual network for vectors with blocks modulated by time and condition (FiLM).

    h = W x;  h <- h + W_i silu((1 + scale_i(e)) h + shift_i(e)), depth times;  output = W h
    Assumes [B,size], or [B,*shape] for a small datum of any shape, which is flattened; with ``frames`` the times may be
    [B,frames].
    Source: the modulation is that of Perez et al. 2018 (arXiv 1709.07871).

    >>> MLP(2)(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        size: int | None = None,  # coordinates of one datum; None: computed from ``shape``
        width: int = 128,  # 32 to 1024
        depth: int = 3,  # blocks
        conditions: Conditions | None = None,
        span: bool = False,  # take the end of a jump as a second time, for flow maps
        dropout: float = 0.0,  # 0 to 0.5
        *,
        shape: Sequence[int] | None = None,  # shape of one datum that is not a vector
        frames: int = 0,  # number of frames with separate times; 0 for one time per sample
        scale: float = 30.0,  # highest frequency of the time embedding, radians per unit of time
    ):
        super().__init__()
        self.shape = tuple(int(n) for n in (shape if shape is not None else [] if size is None else [size]))
        count = math.prod(self.shape)
        require(
            bool(self.shape) and count >= 1 and size in (None, count),
            f"MLP got size={size} and shape={shape}; it needs the number of coordinates of one datum: set size=D, or a "
            "shape whose product is the size",
        )
        check_sizes("MLP", width=width, depth=depth)
        check_dropout("MLP", dropout)
        embed_width = max(32, width // 4)
        self.settings: dict[str, Any] = {
            "size": count,
            "width": width,
            "depth": depth,
            "span": span,
            "dropout": dropout,
        }
        self.settings |= {"shape": list(self.shape), "frames": frames, "scale": scale}
        self.embed = Embedding(embed_width, conditions, span, frames, count=32, scale=scale)
        self.inp = nn.Linear(count, width)
        self.tell = nn.Linear(
            embed_width, 2 * depth * width
        )  # one layer for all blocks: one large product for many small
        self.block = nn.ModuleList(MLPBlock(width, dropout) for _ in range(depth))
        self.out = zeroed(nn.Linear(width, count))

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"block": self.block}

    @property
    def last_layer(self) -> nn.Module:
        return self.out

    @property
    def traits(self) -> Traits:
        return Traits(nulls=nulls_of_labels(self.embed.cond.conditions))

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.settings, "conditions": self.embed.cond.conditions}

    def modulation(self, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> list[tuple[Tensor, ...]]:
        e = self.embed(t, cond, s)
        scales_shifts = self.tell(e.to(dtype_of(self.tell, e)))
        return [part.unbind(1) for part in scales_shifts.unflatten(-1, (len(self.block), 2, -1)).unbind(1)]

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        h, told, out = self.stages(x, t, cond, s)
        for block, modulation in zip(self.block, told, strict=False):
            h = block(h, *modulation)
        return out(h)

    def stages(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Stages:
        check_state(self, x, t, self.shape)
        told = [*self.modulation(t, cond, s), ()]
        return Stages(self.inp(x.flatten(1)), told, lambda h: self.out(h).reshape(-1, *x.shape[1:]))
