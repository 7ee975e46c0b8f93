"""Small networks: an MLP for vectors and a U-Net for images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.declared import Declaring, Traits, nulls_of_labels
from beeline.core.types import Cond, require
from beeline.nets.attention import SelfAttention
from beeline.nets.embed import Conditions, Embedding, check_state
from beeline.nets.islands import WideGroupNorm, groups_of, zeroed


class MLPBlock(nn.Module):
    """h + W silu((1 + scale) h + shift), with scale and shift told by time and condition."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        u = F.silu(torch.addcmul(h + shift, h, scale))
        out: Tensor = h + self.out(self.dropout(u))
        return out


class MLP(Declaring):
    """A residual network for vectors, whose blocks are modulated by time and condition.

    h = W x;  h <- h + W_i silu((1 + scale_i(e)) h + shift_i(e)), depth times;  output = W h
    Assumes [B,size], or [B,*shape] for a small datum of any shape (flattened inside); with ``frames`` the times may
    be [B,frames].  All coordinates see all others, so the cost grows with the square of the width only.
    Source: none; the modulation is Perez et al. 2018 (arXiv 1709.07871).

    >>> MLP(2)(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        size: int | None = None,  # coordinates of one datum; None takes them from ``shape``
        width: int = 128,  # 32 to 1024
        depth: int = 3,  # blocks
        conditions: Conditions | None = None,
        span: bool = False,  # whether it takes the end of a jump as a second time
        dropout: float = 0.0,  # 0 to 0.5
        *,
        shape: Sequence[int] | None = None,  # shape of one datum where it is not a vector
        frames: int = 0,  # number of frames that may have a time of their own; 0 for one time per sample
        scale: float = 30.0,  # highest frequency of the time embedding, radians per unit of time
    ):
        super().__init__()
        self.shape = tuple(int(n) for n in (shape if shape is not None else [] if size is None else [size]))
        count = math.prod(self.shape)
        require(
            bool(self.shape) and count >= 1 and size in (None, count),
            f"MLP got size={size} and shape={shape}; it needs the number of coordinates of one datum: "
            "give size=D, or shape=(...) whose product is the size",
        )
        check_sizes("MLP", width=width, depth=depth)
        told = max(32, width // 4)
        self.settings: dict[str, Any] = {
            "size": count,
            "width": width,
            "depth": depth,
            "span": span,
            "dropout": dropout,
        }
        self.settings |= {"shape": list(self.shape), "frames": frames, "scale": scale}
        self.embed = Embedding(told, conditions, span, frames, count=32, scale=scale)
        self.inp = nn.Linear(count, width)
        self.tell = nn.Linear(told, 2 * depth * width)  # one layer for all blocks: one large product for many small
        self.block = nn.ModuleList(MLPBlock(width, dropout) for _ in range(depth))
        self.out = zeroed(nn.Linear(width, count))

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"block": self.block}

    @property
    def traits(self) -> Traits:
        return Traits(nulls=nulls_of_labels(self.embed.cond.conditions))

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal network is built."""
        return {**self.settings, "conditions": self.embed.cond.conditions}

    def modulation(self, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> list[tuple[Tensor, ...]]:
        told = self.tell(self.embed(t, cond, s).to(self.tell.weight.dtype))
        return [part.unbind(1) for part in told.unflatten(-1, (len(self.block), 2, -1)).unbind(1)]

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        check_state(self, x, t, self.shape)
        h = self.inp(x.flatten(1))
        for block, told in zip(self.block, self.modulation(t, cond, s), strict=True):
            h = block(h, *told)
        made: Tensor = self.out(h)
        return made.reshape(x.shape)


class ResBlock(nn.Module):
    """Two convolutions with a shortcut, modulated between them by time and condition."""

    def __init__(self, width_in: int, width: int, told: int, dropout: float):
        super().__init__()
        self.norm1 = WideGroupNorm(groups_of(width_in), width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.tell = nn.Linear(told, 2 * width)
        self.norm2 = WideGroupNorm(groups_of(width), width)
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
    """Self-attention between the pixels of a feature map, added to it; starts at nothing."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm = WideGroupNorm(groups_of(width), width)
        self.mix = SelfAttention(width, heads)
        zeroed(self.mix.out)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        tokens = self.mix(self.norm(x).flatten(2).transpose(1, 2))
        out: Tensor = x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return out


class UNet(Declaring):
    """A convolutional network that works on an image at several sizes, from fine to coarse and back.

    level k has width * multipliers[k] channels and half the size of the level before it (rounded up)
    Assumes [B,C,H,W]; any height and width, odd ones included, also other ones than it was built with.
    Source: Ronneberger et al. 2015 (arXiv 1505.04597); blocks after Dhariwal and Nichol 2021 (arXiv 2105.05233).

    >>> UNet((1, 7, 9), width=8)(torch.zeros(2, 1, 7, 9), torch.zeros(2)).shape
    torch.Size([2, 1, 7, 9])
    """

    def __init__(
        self,
        shape: Sequence[int],  # (channels, height, width) of one image
        width: int = 32,  # channels of the finest level; a multiple of 8 is fastest
        multipliers: Sequence[int] = (1, 2, 2),  # one per level
        blocks: int = 1,  # blocks per level on the way down, and on the way up
        attention: bool = True,  # between the pixels of the coarsest level
        conditions: Conditions | None = None,
        span: bool = False,  # whether it takes the end of a jump as a second time
        dropout: float = 0.0,  # 0 to 0.5
        *,
        scale: float = 1000.0,  # highest frequency of the time embedding, radians per unit of time
        channels_last: bool = False,  # memory order inside; faster on tensor cores, the same on CPU
    ):
        super().__init__()
        self.shape = check_image("UNet", shape)
        require(len(multipliers) >= 1, "UNet got no multipliers; it needs one per level, such as (1, 2, 2)")
        check_sizes("UNet", width=width, blocks=blocks, multiplier=min(multipliers))
        self.settings: dict[str, Any] = {
            "shape": list(self.shape),
            "width": width,
            "multipliers": list(multipliers),
            "blocks": blocks,
        }
        self.settings |= {"attention": attention, "span": span, "dropout": dropout, "scale": scale}
        self.settings |= {"channels_last": channels_last}
        self.blocks, self.channels_last = blocks, channels_last
        told = 4 * width
        widths = [width * m for m in multipliers]
        low = widths[-1]

        def level(width_in: int, width: int) -> list[nn.Module]:
            return [ResBlock(width_in if i == 0 else width, width, told, dropout) for i in range(blocks)]

        befores = [width, *widths[:-1]]
        self.embed = Embedding(told, conditions, span, scale=scale)
        self.inp = nn.Conv2d(self.shape[0], width, 3, padding=1)
        self.down = nn.ModuleList(b for before, w in zip(befores, widths, strict=True) for b in level(before, w))
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        middle: list[nn.Module] = [ResBlock(low, low, told, dropout)]
        if attention:
            middle += [PixelAttention(low, max(1, low // 32)), ResBlock(low, low, told, dropout)]
        self.middle = nn.ModuleList(middle)
        aboves = [*widths[1:], low]
        rising = reversed(list(zip(aboves, widths, strict=True)))
        self.up = nn.ModuleList(b for above, w in rising for b in level(above + w, w))
        self.norm = WideGroupNorm(groups_of(width * multipliers[0]), width * multipliers[0])
        self.out = zeroed(nn.Conv2d(width * multipliers[0], self.shape[0], 3, padding=1))

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"down": self.down, "middle": self.middle, "up": self.up}

    @property
    def traits(self) -> Traits:
        return Traits(nulls=nulls_of_labels(self.embed.cond.conditions))

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal network is built."""
        return {**self.settings, "conditions": self.embed.cond.conditions}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        check_state(self, x, t, (self.shape[0], None, None))
        e = self.embed(t, cond, s).to(x.dtype)
        h = self.inp(x.contiguous(memory_format=torch.channels_last) if self.channels_last else x)
        n, kept = self.blocks, []
        for i in range(0, len(self.down), n):
            for block in self.down[i : i + n]:
                h = block(h, e)
            kept.append(h)
            if i // n < len(self.shrink):
                h = self.shrink[i // n](h)
        for block in self.middle:
            h = block(h, e)
        for i in range(0, len(self.up), n):
            skip = kept.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = F.interpolate(h, size=skip.shape[2:], mode="nearest")
            h = torch.cat([h, skip], 1)
            for block in self.up[i : i + n]:
                h = block(h, e)
        made: Tensor = self.out(F.silu(self.norm(h)))
        return made.contiguous()


def check_image(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape (C, H, W) of one image, or a refusal."""
    require(
        len(shape) == 3 and all(int(n) == n and n >= 1 for n in shape),
        f"{name} got shape={tuple(shape)}; it works on images: give (channels, height, width)",
    )
    c, h, w = (int(n) for n in shape)
    return c, h, w


def check_sizes(name: str, **sizes: int) -> None:
    """Refuse a size that is not a whole number from 1."""
    for key, value in sizes.items():
        require(
            isinstance(value, int) and value >= 1,
            f"{name} got {key}={value!r}; a size is a whole number from 1: see the defaults of {name}",
        )
