"""Blocks that read the tokens of conditions: by cross-attention, or in a last joint block and with two attentions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.networks.attention import attend
from beeline.networks.embed import Conditions, TokenEmbedding
from beeline.networks.fp32 import zeroed
from beeline.networks.transformer.blocks import JointBlock, Modulation, PreNormBlock, Sizes, modulated, noted
from beeline.networks.transformer.feeds import Feed
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import Mixer


class CaptionEmbedding(TokenEmbedding):
    """Tokens of sequences by two layers, W2 gelu(W1 c) of every vector."""

    def part(self, spec: Mapping[str, int], width: int) -> nn.Module:
        if "length" not in spec:
            return super().part(spec, width)
        return nn.Sequential(nn.Linear(spec["size"], width), nn.GELU("tanh"), nn.Linear(width, width))


class CrossAttention(nn.Module):
    """Attention of tokens to others, zero at first; rows in which no token may be seen get zeros."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, h: Tensor, others: Tensor, keep: Tensor | None, sizes: Tensor | None = None) -> Tensor:
        q = self.q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(others).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        many = None if sizes is None else sizes.to(k).log()[:, None, None]  # tokens that stand for several
        if keep is None:
            return self.joined(attend(q, k, v, many))
        some = keep.any(1, keepdim=True)  # a softmax over nothing is not a number
        seen = (keep | ~some)[:, None, None]
        found = self.joined(attend(q, k, v, seen if many is None else many.masked_fill(~seen, -torch.inf)))
        return torch.where(some[..., None], found, torch.zeros_like(found))

    def joined(self, mixed: Tensor) -> Tensor:
        """The tokens of all heads [B,H,N,D] together."""
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class CrossBlock(PreNormBlock):
    """A block whose tokens of the datum read those of the conditions between its two branches."""

    def __init__(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation):
        super().__init__(sizes, mixer, feed, modulation)
        self.cross = CrossAttention(sizes.width, sizes.heads)

    def forward(self, h: Tensor, e: Tensor, layout: Layout) -> Any:
        h, others = h[:, : layout.tokens], h[:, layout.tokens :]
        own, keep = layout._replace(keep=None), None if layout.keep is None else layout.keep[:, layout.tokens :]
        sizes = None if layout.sizes is None else layout.sizes[:, layout.tokens :]
        told = layout.spread(self.tell(e)).chunk(6, -1)
        h = self.mixing(h, told[:3], own)
        read = self.cross(h, others, keep, sizes if sizes is not None and sizes.shape[1] else None)
        h, notes = self.feeding(h + read, told[3:], own)
        return noted(torch.cat([h, others], 1), notes, layout)


@dataclass(frozen=True)
class Cross:
    """Self-attention of the datum, then cross-attention to the tokens of the conditions, then the feed.

    h <- h + gate1 mix(norm(h) (1 + scale1) + shift1);  h <- h + W softmax(q(h) k(c)' / sqrt(d)) v(c),  W = 0 at first
    h <- h + gate2 feed(norm(h) (1 + scale2) + shift2),  c = W2 gelu(W1 .) of every vector of a sequence
    The tokens c are those of sequences among the conditions, which do not modulate then; without sequences every
    condition gives one token, beside the modulation.  Padding is not read.
    Source: Chen et al. 2023, "PixArt-alpha" (arXiv 2310.00426).

    >>> Cross()
    Cross()
    """

    def context(self, width: int, conditions: Conditions) -> TokenEmbedding | None:
        require(
            bool(conditions),
            "Cross got no conditions; its blocks read their tokens: train it on data with conditions, or use "
            "wiring=PreNorm",
        )
        return CaptionEmbedding(width, conditions)

    def build(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation) -> nn.Module:
        return CrossBlock(sizes, mixer, feed, modulation)


class LastJointBlock(JointBlock):
    """A joint block whose tokens of conditions are read by those of the datum, and do not change."""

    def __init__(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation, streams: Sequence[str]):
        super().__init__(sizes, mixer, feed, modulation, streams)
        for read in self.streams[1:]:
            self.tell[read] = modulation.build(sizes.width, 2)
            del self.mlp[read]
            self.mix.close(read)  # type: ignore[operator]

    def forward(self, h: Tensor, e: Tensor, layout: Layout) -> Any:
        own, read = self.streams
        x, others = h[:, : layout.tokens], h[:, layout.tokens :]
        shift1, scale1, gate1, shift2, scale2, gate2 = layout.spread(self.tell[own](e)).chunk(6, -1)
        shift, scale = layout.spread(self.tell[read](e)).chunk(2, -1)
        mixed = self.mix([modulated(x, shift1, scale1), modulated(others, shift, scale)], layout)
        x = torch.addcmul(x, gate1, mixed[0])
        fed, found = self.mlp[own](modulated(x, shift2, scale2), layout)
        notes = {f"{own}.{name}": value for name, value in found.items()}
        return noted(torch.cat([torch.addcmul(x, gate2, fed), others], 1), notes, layout)


class DualJointBlock(JointBlock):
    """A joint block in which the tokens of the datum are also mixed among themselves."""

    def __init__(self, sizes: Sizes, mixer: Mixer, feed: Feed, modulation: Modulation, streams: Sequence[str]):
        super().__init__(sizes, mixer, feed, modulation, streams)
        self.again = modulation.build(sizes.width, 3)
        self.own = mixer.build(sizes.width, sizes.heads, sizes.grid)

    def between(self, u: Tensor, before: Tensor, e: Tensor, layout: Layout) -> Tensor:
        shift, scale, gate = layout.spread(self.again(e)).chunk(3, -1)
        alone = layout._replace(keep=None, hints=(), heard=None)
        return torch.addcmul(u, gate, self.own(modulated(before, shift, scale), alone))
