"""Diffusion transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring, Stages, TokenGrid, Traits, nulls_of_labels
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.attention import SelfAttention
from beeline.networks.checks import check_dropout, check_image, check_sizes
from beeline.networks.embed import Conditions, Embedding, check_state, sinusoidal_features
from beeline.networks.fp32 import layer_norm, zeroed
from beeline.networks.patches import from_patches, to_patches


class DiTBlock(nn.Module):
    """A transformer block with adaptive layer normalisation and gates (adaLN-zero).

    x <- x + gate1 attention(norm(x) (1 + scale1) + shift1);  x <- x + gate2 mlp(norm(x) (1 + scale2) + shift2)
    Scales, shifts and gates come from one linear layer initialised to zero, so that a block starts as the identity.
    """

    def __init__(self, width: int, heads: int, ratio: float, dropout: float):
        super().__init__()
        inner = int(width * ratio)
        self.tell = zeroed(nn.Linear(width, 6 * width))
        self.mix = SelfAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.tell(e)[:, None].chunk(6, -1)
        x = torch.addcmul(x, gate1, self.mix(torch.addcmul(shift1, layer_norm(x), 1 + scale1)))
        return torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, layer_norm(x), 1 + scale2)))


class DiT(Declaring):
    """A transformer over the patches of an image, modulated by time and condition (adaLN-zero).

    tokens = W patches + positions;  depth blocks;  output = unpatch(W (norm(tokens) (1 + scale) + shift))
    Assumes images [B,C,H,W] of the configured size, or of any with ``any_size``; a size that is no multiple of the
    patch is padded with zeros and cropped again.
    Source: Peebles and Xie 2022 (arXiv 2212.09748), adaLN-zero; QK-norm: Esser et al. 2024 (arXiv 2403.03206).

    >>> DiT((1, 8, 8), width=32, depth=1)(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    positions: Tensor

    def __init__(
        self,
        shape: Sequence[int],  # (channels, height, width) of one image
        patch: int = 2,  # side of a patch in pixels; the cost falls with at most its fourth power
        width: int = 128,  # channels of a token; a multiple of 4 and of heads
        depth: int = 3,  # blocks
        heads: int = 4,  # 32 to 64 channels per head are usual
        conditions: Conditions | None = None,
        span: bool = False,  # take the end of a jump as a second time, for flow maps
        dropout: float = 0.0,  # 0 to 0.5
        *,
        ratio: float = 4.0,  # hidden channels of the MLP in a block, relative to width
        any_size: bool = False,  # take other heights and widths, with positions of their own
        scale: float = 1000.0,  # highest frequency of the time embedding, radians per unit of time
    ):
        super().__init__()
        self.shape = check_image("DiT", shape)
        check_sizes("DiT", patch=patch, width=width, depth=depth, heads=heads)
        check_dropout("DiT", dropout)
        require(
            width % 4 == 0,
            f"DiT got width={width}; position embeddings use a quarter of it for the sines and cosines of each "
            "direction: set a multiple of 4",
        )
        self.settings: dict[str, Any] = {
            "shape": list(self.shape),
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": heads,
        }
        self.settings |= {"span": span, "dropout": dropout, "ratio": ratio, "scale": scale, "any_size": any_size}
        self.any_size = any_size
        channels, height, length = self.shape
        self.patch = patch
        self.grid = (-(-height // patch), -(-length // patch))
        self.embed = Embedding(width, conditions, span, scale=scale)
        self.inp = nn.Linear(channels * patch * patch, width)
        self.register_buffer("positions", sincos_positions(*self.grid, width), persistent=False)
        self.block = nn.ModuleList(DiTBlock(width, heads, ratio, dropout) for _ in range(depth))
        self.tell = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, channels * patch * patch))

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"block": self.block}

    @property
    def last_layer(self) -> nn.Module:
        return self.out

    @property
    def traits(self) -> Traits:
        nulls = nulls_of_labels(self.embed.cond.conditions)
        return Traits(nulls=nulls, any_size=self.any_size, tokens=self.token_grid)

    def token_grid(self, shape: Sequence[int]) -> TokenGrid:
        """The tokens of an image [C,H,W]."""
        return TokenGrid(-(-shape[-2] // self.patch), -(-shape[-1] // self.patch))

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.settings, "conditions": self.embed.cond.conditions}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        h, told, out = self.stages(x, t, cond, s)
        for block, modulation in zip(self.block, told, strict=False):
            h = block(h, *modulation)
        return out(h, *told[-1])

    def stages(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Stages:
        check_state(self, x, t, (self.shape[0], None, None) if self.any_size else self.shape)
        e = self.embed(t, cond, s).to(x.dtype)
        h = self.inp(to_patches(x, self.patch)) + self._positions(x).to(x.dtype)

        def out(h: Tensor, e: Tensor) -> Tensor:
            shift, scale = self.tell(e)[:, None].chunk(2, -1)
            return from_patches(self.out(torch.addcmul(shift, layer_norm(h), 1 + scale)), x.shape[1:], self.patch)

        return Stages(h, [(e,)] * (len(self.block) + 1), out)

    def _positions(self, x: Tensor) -> Tensor:
        """The position embeddings of the patches of ``x``."""
        rows, columns = (-(-side // self.patch) for side in x.shape[2:])
        if (rows, columns) == self.grid:
            return self.positions
        return sincos_positions(rows, columns, self.positions.shape[1]).to(x.device)

    def modulation(self, t: Tensor, cond: Cond = None) -> list[tuple[Tensor, ...]]:
        return [(self.embed(t, cond).to(self.inp.weight.dtype),)] * len(self.block)


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Position embeddings [rows * columns, width]: sines and cosines of row and column, half of the width each."""
    # frequencies from 1 to 1/10000 radian per patch, as in the original transformer
    row = sinusoidal_features(torch.arange(rows) / 10000, width // 2, 10000.0)
    column = sinusoidal_features(torch.arange(columns) / 10000, width // 2, 10000.0)
    both = row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)
    return torch.cat(both, -1).flatten(0, 1)
