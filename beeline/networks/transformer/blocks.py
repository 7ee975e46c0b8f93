"""Blocks: how mixing and feeding meet the stream of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.ranges import dataclass
from beeline.networks.embed import Conditions, TokenEmbedding
from beeline.networks.fp32 import layer_norm, rms_norm, zeroed
from beeline.networks.transformer.feeds import Feed
from beeline.networks.transformer.layout import Layout, Notes
from beeline.networks.transformer.mixers import Mixer


@dataclass(frozen=True)
class Sizes:
    """The sizes that the blocks of a network share."""

    width: int
    heads: int
    hidden: int  # channels inside of a feed
    dropout: float
    grid: tuple[int, ...] = ()  # the usual patches along every axis, for mixers that see them


class Wiring(Protocol):
    """How the branches of a block meet the stream."""

    def context(self, width: int, conditions: Conditions) -> TokenEmbedding | None:
        """What gives the tokens of conditions that blocks read; None where they read none."""
        ...

    def build(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation) -> nn.Module:
        """The block: (h [B,N,D], e [B,D], layout) -> h, or (h, notes) where the layout asks for notes."""
        ...


class Modulation(Protocol):
    """How time and condition set the shifts, scales and gates of a block."""

    def root(self, width: int) -> nn.Module:
        """The part that all blocks share, e [B,D] -> what modules of blocks take; an ``OfTime`` takes (e, t [B])."""
        ...

    def build(self, width: int, chunks: int) -> nn.Module:
        """The part of a block, root(e) -> [B, chunks D], or [1, chunks D] where they do not depend on e."""
        ...

    def last(self, width: int) -> nn.Module:
        """The part of the output, (z [B,D] with e = silu(z), like) -> shift and scale [B, 2 D] in the dtype of like."""
        ...


class Told(nn.Linear):
    """Shift and scale of the output from the embedding before its silu, zero at first."""

    def __init__(self, width: int):
        super().__init__(width, 2 * width)
        zeroed(self)

    def forward(self, z: Tensor, like: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(F.silu(z).to(like.dtype))


class OfTime(nn.Module):
    """Base of shared parts of a modulation that take the time beside its embedding."""


class OwnModulation:
    """Base of modulations, whose blocks share nothing and whose output has a linear layer."""

    def root(self, width: int) -> nn.Module:
        return nn.Identity()

    def last(self, width: int) -> nn.Module:
        return Told(width)


@dataclass(frozen=True)
class AdaLNZero(OwnModulation):
    """Shifts, scales and gates from a linear layer of the embedding, which starts at zero.

    (shift, scale, gate) of every branch = W e + b,  W = b = 0 at first
    Source: Peebles and Xie 2022 (arXiv 2212.09748).

    >>> AdaLNZero().build(4, 6)(torch.ones(1, 4)).abs().max().item()
    0.0
    """

    def build(self, width: int, chunks: int) -> nn.Module:
        return zeroed(nn.Linear(width, chunks * width))


def noted(h: Tensor, notes: Notes, layout: Layout) -> Any:
    """What a block returns."""
    return (h, notes) if layout.noting else h


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(h) (1 + scale) + shift."""
    return torch.addcmul(shift, layer_norm(h), 1 + scale)


class Block(nn.Module):
    """The parts of a block of one stream; subclasses give the formula."""

    chunks: ClassVar[int]  # shifts, scales and gates

    def __init__(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation):
        super().__init__()
        self.tell = modulation.build(sizes.width, self.chunks)
        self.mix = mixer.build(sizes.width, sizes.heads, sizes.grid)
        self.mlp = feed.build(sizes.width, sizes.hidden, sizes.dropout)


class Alone:
    """Base of wirings that read no tokens of conditions."""

    def context(self, width: int, conditions: Conditions) -> TokenEmbedding | None:
        return None


class PreNormBlock(Block):
    """A transformer block with adaptive layer normalisation before, and gates after both branches."""

    chunks = 6

    def forward(self, h: Tensor, e: Tensor, layout: Layout) -> Any:
        told = layout.spread(self.tell(e)).chunk(6, -1)
        h, notes = self.feeding(self.mixing(h, told[:3], layout), told[3:], layout)
        return noted(h, notes, layout)

    def mixing(self, h: Tensor, told: Sequence[Tensor], layout: Layout) -> Tensor:
        """Tokens after the mixer; ``told`` are its shift, scale and gate."""
        shift, scale, gate = told
        return torch.addcmul(h, gate, self.branch(self.mix(modulated(h, shift, scale), layout), 0))

    def feeding(self, h: Tensor, told: Sequence[Tensor], layout: Layout) -> tuple[Tensor, Notes]:
        """Tokens after the feed, and its notes; ``told`` are its shift, scale and gate."""
        shift, scale, gate = told
        fed, notes = self.mlp(modulated(h, shift, scale), layout)
        return torch.addcmul(h, gate, self.branch(fed, 1)), notes

    def branch(self, out: Tensor, which: int) -> Tensor:
        """What of the output of a branch (0 mixer, 1 feed) meets the gate."""
        return out


@dataclass(frozen=True)
class PreNorm(Alone):
    """Both branches read the normalised stream, one after the other.

    h <- h + gate1 mix(norm(h) (1 + scale1) + shift1);  h <- h + gate2 feed(norm(h) (1 + scale2) + shift2)
    Source: Peebles and Xie 2022 (arXiv 2212.09748), adaLN-zero.

    >>> PreNorm()
    PreNorm()
    """

    def build(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation) -> nn.Module:
        return PreNormBlock(sizes, mixer, feed, modulation)


class PeriBlock(PreNormBlock):
    """A block that also normalises the output of its branches."""

    def __init__(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation):
        super().__init__(sizes, mixer, feed, modulation)
        self.outer = nn.Parameter(torch.ones(2, sizes.width))

    def branch(self, out: Tensor, which: int) -> Tensor:
        return rms_norm(out, self.outer[which])


@dataclass(frozen=True)
class Peri(Alone):
    """Normalisation before and after every branch, so that the size of a branch does not depend on its weights.

    h <- h + gate norm(F(norm(h) (1 + scale) + shift))
    Source: Kim et al. 2025, "Peri-LN" (arXiv 2502.02732).

    >>> Peri()
    Peri()
    """

    def build(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation) -> nn.Module:
        return PeriBlock(sizes, mixer, feed, modulation)


class ParallelBlock(Block):
    """A block whose branches read the same normalised tokens."""

    chunks = 3

    def forward(self, h: Tensor, e: Tensor, layout: Layout) -> Any:
        shift, scale, gate = layout.spread(self.tell(e)).chunk(3, -1)
        u = modulated(h, shift, scale)
        fed, notes = self.mlp(u, layout)
        return noted(torch.addcmul(h, gate, self.mix(u, layout) + fed), notes, layout)


@dataclass(frozen=True)
class Parallel(Alone):
    """Both branches read the same normalised tokens, with one gate.

    h <- h + gate (mix(u) + feed(u)),  u = norm(h) (1 + scale) + shift
    Source: Black Forest Labs 2024, FLUX.1, its single-stream blocks; Dehghani et al. 2023 (arXiv 2302.05442).

    >>> Parallel()
    Parallel()
    """

    def build(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation) -> nn.Module:
        return ParallelBlock(sizes, mixer, feed, modulation)


class JointBlock(nn.Module):
    """A block of several streams with weights of their own, whose tokens are mixed together.

    Tokens [B,N,D] hold the streams one after the other; the first is that of the datum.
    """

    def __init__(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation, streams: Sequence[str]):
        super().__init__()
        self.streams = tuple(streams)
        self.tell = nn.ModuleDict({s: modulation.build(sizes.width, 6) for s in streams})
        self.mix = mixer.joint(sizes.width, sizes.heads, sizes.grid, streams)
        self.mlp = nn.ModuleDict({s: feed.build(sizes.width, sizes.hidden, sizes.dropout) for s in streams})

    def forward(self, h: Tensor, e: Tensor, layout: Layout) -> Any:
        parts = [h[:, : layout.tokens], h[:, layout.tokens :]]
        told = [layout.spread(self.tell[s](e)).chunk(6, -1) for s in self.streams]
        mixed = self.mix([modulated(u, m[0], m[1]) for u, m in zip(parts, told, strict=True)], layout)
        notes: dict[str, Tensor] = {}
        for i, (s, m) in enumerate(zip(self.streams, told, strict=True)):
            u = torch.addcmul(parts[i], m[2], mixed[i])
            u = u if i else self.between(u, parts[i], e, layout)
            fed, found = self.mlp[s](modulated(u, m[3], m[4]), layout)
            parts[i] = torch.addcmul(u, m[5], fed)
            notes |= {f"{s}.{name}": value for name, value in found.items()}
        return noted(torch.cat(parts, 1), notes, layout)

    def between(self, u: Tensor, before: Tensor, e: Tensor, layout: Layout) -> Tensor:
        """The tokens of the datum for their feed, from those after the joint mixing and before it."""
        return u


class ScalarGates(nn.Module):
    """Shifts and scales from the embedding, and one number as the gate of each branch."""

    def __init__(self, width: int, chunks: int):
        super().__init__()
        self.branches = chunks // 3
        self.linear = zeroed(nn.Linear(width, 2 * self.branches * width))
        self.gate = nn.Parameter(torch.zeros(self.branches))

    def forward(self, e: Tensor) -> Tensor:
        told = self.linear(e).unflatten(-1, (self.branches, 2, -1))
        gates = self.gate.to(told)[:, None, None].expand_as(told[:, :, :1])
        return torch.cat([told, gates], 2).flatten(1)


@dataclass(frozen=True)
class ReZero(OwnModulation):
    """Shifts and scales from the embedding as in AdaLNZero, and one learned number as the gate of each branch.

    (shift, scale) = W e + b,  gate = alpha,  all 0 at first
    The gates have no time; a block that is inserted leaves the network as it is.
    Source: Bachlechner et al. 2020, "ReZero is All You Need" (arXiv 2003.04887), the gates.

    >>> ReZero().build(4, 6)(torch.ones(1, 4)).shape
    torch.Size([1, 24])
    """

    def build(self, width: int, chunks: int) -> nn.Module:
        return ScalarGates(width, chunks)
