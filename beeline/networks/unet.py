"""U-Net for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.declared import Declaring, TokenGrid, Traits, nulls_of_labels
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.attention import SelfAttention
from beeline.networks.checks import check_dropout, check_image, check_sizes
from beeline.networks.embed import Conditions, Embedding, check_state
from beeline.networks.fp32 import WideGroupNorm, norm_groups, zeroed
from beeline.networks.inference.joins import Join


class ResBlock(nn.Module):
    """A residual block of two convolutions, modulated in between by time and condition."""

    def __init__(self, width_in: int, width: int, embed_width: int, dropout: float):
        super().__init__()
        self.norm1 = WideGroupNorm(norm_groups(width_in), width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.tell = nn.Linear(embed_width, 2 * width)
        self.norm2 = WideGroupNorm(norm_groups(width), width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.short = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.tell(e)[:, :, None, None].chunk(2, 1)
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        out: Tensor = self.short(x) + self.conv2(self.dropout(h))
        return out


class PixelAttention(nn.Module):
    """A residual block of self-attention between pixels, initialised to the identity."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm = WideGroupNorm(norm_groups(width), width)
        self.mix = SelfAttention(width, heads)
        zeroed(self.mix.out)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        tokens = self.mix(self.norm(x).flatten(2).transpose(1, 2))
        out: Tensor = x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return out


class UNet(Declaring):
    """A U-Net with residual blocks and attention at the coarsest level.

    level k has width * multipliers[k] channels and half the size of level k-1 (rounded up)
    Assumes images [B,C,H,W] of any height and width.
    Source: Ronneberger et al. 2015 (arXiv 1505.04597); blocks after Dhariwal and Nichol 2021 (arXiv 2105.05233).

    >>> UNet((1, 7, 9), width=8)(torch.zeros(2, 1, 7, 9), torch.zeros(2)).shape
    torch.Size([2, 1, 7, 9])
    """

    def __init__(
        self,
        shape: Sequence[int],  # (channels, height, width) of one image
        width: int = 32,  # channels of the finest level; a multiple of 8 is fastest
        multipliers: Sequence[int] = (1, 2, 2),  # channels relative to width, one per level
        blocks: int = 1,  # blocks per level in the encoder, and in the decoder
        attention: bool = True,  # between the pixels of the coarsest level
        conditions: Conditions | None = None,
        span: bool = False,  # take the end of a jump as a second time, for flow maps
        dropout: float = 0.0,  # 0 to 0.5
        *,
        scale: float = 1000.0,  # highest frequency of the time embedding, radians per unit of time
        channels_last: bool = False,  # memory format; faster on tensor cores, equal on CPU
    ):
        super().__init__()
        self.shape = check_image("UNet", shape)
        require(
            len(multipliers) >= 1, "UNet got no multipliers; it has one level for each: set one or more, as (1, 2, 2)"
        )
        check_sizes("UNet", width=width, blocks=blocks, multiplier=min(multipliers))
        check_dropout("UNet", dropout)
        self.settings: dict[str, Any] = {
            "shape": list(self.shape),
            "width": width,
            "multipliers": list(multipliers),
            "blocks": blocks,
        }
        self.settings |= {"attention": attention, "span": span, "dropout": dropout, "scale": scale}
        self.settings |= {"channels_last": channels_last}
        self.blocks, self.channels_last, self.attention = blocks, channels_last, attention
        embed_width = 4 * width
        widths = [width * m for m in multipliers]
        low = widths[-1]

        def level(width_in: int, width: int) -> list[nn.Module]:
            return [ResBlock(width_in if i == 0 else width, width, embed_width, dropout) for i in range(blocks)]

        befores = [width, *widths[:-1]]
        self.embed = Embedding(embed_width, conditions, span, scale=scale)
        self.inp = nn.Conv2d(self.shape[0], width, 3, padding=1)
        self.down = nn.ModuleList(b for before, w in zip(befores, widths, strict=True) for b in level(before, w))
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        middle: list[nn.Module] = [ResBlock(low, low, embed_width, dropout)]
        if attention:
            middle += [PixelAttention(low, max(1, low // 32)), ResBlock(low, low, embed_width, dropout)]
        self.middle = nn.ModuleList(middle)
        aboves = [*widths[1:], low]
        rising = list(zip(aboves, widths, strict=True))[::-1]
        self.above = [above for above, _ in rising]
        self.up = nn.ModuleList(b for above, w in rising for b in level(above + w, w))
        self.norm = WideGroupNorm(norm_groups(width * multipliers[0]), width * multipliers[0])
        self.out = zeroed(nn.Conv2d(width * multipliers[0], self.shape[0], 3, padding=1))

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"down": self.down, "middle": self.middle, "up": self.up}

    @property
    def joins(self) -> list[Join]:
        return [Join(self.up[i * self.blocks], above, 1) for i, above in enumerate(self.above)]

    @property
    def last_layer(self) -> nn.Module:
        return self.out

    @property
    def traits(self) -> Traits:
        nulls, tokens = nulls_of_labels(self.embed.cond.conditions), self.token_grid if self.attention else None
        return Traits(nulls=nulls, any_size=True, tokens=tokens)

    def token_grid(self, shape: Sequence[int]) -> TokenGrid:
        """The pixels of the coarsest level of an image [C,H,W], between which there is attention."""
        rows, columns = shape[-2:]
        for _ in self.shrink:
            rows, columns = -(-rows // 2), -(-columns // 2)
        return TokenGrid(rows, columns)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.settings, "conditions": self.embed.cond.conditions}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        check_state(self, x, t, (self.shape[0], None, None))
        e = self.embed(t, cond, s).to(x.dtype)
        h = self.inp(x.contiguous(memory_format=torch.channels_last) if self.channels_last else x)
        n, skips = self.blocks, []
        for i in range(0, len(self.down), n):
            for block in self.down[i : i + n]:
                h = block(h, e)
            skips.append(h)
            if i // n < len(self.shrink):
                h = self.shrink[i // n](h)
        for block in self.middle:
            h = block(h, e)
        for i in range(0, len(self.up), n):
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = F.interpolate(h, size=skip.shape[2:], mode="nearest")
            h = torch.cat([h, skip], 1)
            for block in self.up[i : i + n]:
                h = block(h, e)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out.contiguous()
