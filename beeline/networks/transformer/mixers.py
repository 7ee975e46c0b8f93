"""Mixers: how tokens see each other.  A mixer is a setting that builds the module of a block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.errors import BeelineError
from beeline.core.modes import wide
from beeline.core.ranges import dataclass
from beeline.networks.attention import SelfAttention, attend
from beeline.networks.transformer.layout import Layout


class Mixer(Protocol):
    """How tokens are mixed; ``grid`` has the usual number of patches along every axis of the datum."""

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        """The module for one stream: (u [B,N,D], layout) -> [B,N,D]."""
        ...

    def joint(self, width: int, heads: int, grid: tuple[int, ...], streams: Sequence[str]) -> nn.Module:
        """The module for several streams with weights of their own: (list of [B,N_s,D], layout) -> list."""
        ...


Core: TypeAlias = Callable[[Tensor, Tensor, Tensor, Layout], Tensor]
"""(queries, keys, values [B,H,N,d], layout) -> the mixed values [B,H,N,d]; a module where it has parameters."""


class AttentionMixer(ABC):
    """Base of mixers with queries, keys and values; a subclass gives what is computed of them."""

    alike: ClassVar[bool] = True  # whether heads may change places
    norm: bool = True  # whether queries and keys are normalised

    @abstractmethod
    def made(self, width: int, heads: int, grid: tuple[int, ...]) -> Core:
        """What is computed of queries, keys and values."""

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        return Mixed(width, heads, self.made(width, heads, grid), self.norm)

    def joint(self, width: int, heads: int, grid: tuple[int, ...], streams: Sequence[str]) -> nn.Module:
        return Joint(width, heads, self.made(width, heads, grid), streams, self.norm)


class CoreMixer(AttentionMixer):
    """Base of attentions without parameters beside the projections."""

    @abstractmethod
    def core(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """The mixed values [B,H,N,d] for queries, keys and values [B,H,N,d]."""

    def made(self, width: int, heads: int, grid: tuple[int, ...]) -> Core:
        return self.core


class OneStream(ABC):
    """Base of mixers of the tokens of the datum alone, which joint blocks of several streams cannot have."""

    @abstractmethod
    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        """The module for one stream: (u [B,N,D], layout) -> [B,N,D]."""

    def joint(self, width: int, heads: int, grid: tuple[int, ...], streams: Sequence[str]) -> nn.Module:
        name = type(self).__name__
        raise BeelineError(
            f"{name} was given to blocks with the streams {', '.join(streams)}; it mixes the patches of one grid and "
            "has no place for other tokens: use network=DiT or UViT, or an attention such as mixer=LinearAttention"
        )


def mixed(core: Core, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """The mixed values [B,H,N,d] of queries, keys and values before their turning, with those of hints."""
    q, k = layout.turned(q), layout.turned(k)
    if layout.heard is not None:
        layout.heard.append((k, v))
    k, v, seen = layout.seen(k, v)
    out = own = core(q, k, v, seen)
    for hint in layout.hints:
        both = torch.cat([k, hint.k], 2), torch.cat([v, hint.v], 2)
        out = torch.addcmul(out, hint.gain, core(q, *both, seen.wider(hint.k.shape[2])) - own)
    return layout.part.heads(out)


class Mixed(SelfAttention):
    """Multi-head mixing by any core."""

    def __init__(self, width: int, heads: int, core: Core, norm: bool = True):
        super().__init__(width, heads, norm)
        self.core = core

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        return self.joined(mixed(self.core, *self.divided(x), layout))


class Joint(nn.Module):
    """Mixing of the tokens of several streams together, with projections of its own for each stream."""

    def __init__(self, width: int, heads: int, core: Core, streams: Sequence[str], norm: bool = True):
        super().__init__()
        self.core, self.streams = core, tuple(streams)
        for name in streams:
            self.add_module(name, SelfAttention(width, heads, norm))

    def close(self, stream: str) -> None:
        """Leave the last layer of a stream out, whose output nobody reads."""
        self.get_submodule(stream).out = nn.Identity()  # type: ignore[assignment]

    def forward(self, parts: Sequence[Tensor], layout: Layout) -> list[Tensor]:
        own = [self.get_submodule(name) for name in self.streams]
        q, k, v = (
            torch.cat(some, 2)
            for some in zip(*(m.divided(u) for m, u in zip(own, parts, strict=True)), strict=True)  # type: ignore[operator]
        )
        pieces = mixed(self.core, q, k, v, layout).split([u.shape[1] for u in parts], 2)
        return [m.joined(piece) for m, piece in zip(own, pieces, strict=True)]  # type: ignore[operator]


@dataclass(frozen=True)
class Attention(CoreMixer):
    """Softmax attention.

    o = softmax(q k' / sqrt(d)) v
    Its time grows with the square of the number of tokens.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); QK-norm: Henry et al. 2020 (arXiv 2010.04245).

    >>> Attention()
    Attention(norm=True)
    """

    norm: bool = True  # RMS-normalised queries and keys, which bound the logits

    def core(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        return attend(q, k, v, layout.bias(k))


@dataclass(frozen=True)
class LinearAttention(CoreMixer):
    """Normalised linear attention, whose time grows with the number of tokens.

    o_i = f(q_i)' S / f(q_i)' z,  S = sum_j f(k_j) v_j' / N,  z = sum_j f(k_j) / N,  f(y) = elu(y) + 1
    Tokens that are repeated change nothing.  Rotary positions turn q and k before f.
    Source: Liu et al. 2024, "LinFusion" (arXiv 2409.02097); Katharopoulos et al. 2020 (arXiv 2006.16236).

    >>> LinearAttention()
    LinearAttention()
    """

    def core(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        f, g = (torch.nn.functional.elu(wide(y)) + 1 for y in (q, k))
        g = g / k.shape[2] if layout.mask is None else _seen(g, layout.mask) / layout.mask.sum(-1)[..., None]
        state, total = g.mT @ wide(v), g.sum(2)[..., None]  # sums of many tokens lose digits in half precision
        return (f @ state / (f @ total + 1e-4)).to(v.dtype)


@dataclass(frozen=True)
class FlowAttention(CoreMixer):
    """Linear attention that conserves what flows in and out of every token, so that values compete.

    f = sigmoid,  I_i = f(q_i)' sum_j f(k_j),  O_j = f(k_j)' sum_i f(q_i)
    I'_i = f(q_i)' sum_j f(k_j) / O_j,  O'_j = f(k_j)' sum_i f(q_i) / I_i, at most 1 in size
    o_i = sigmoid(I'_i) (f(q_i) / I_i)' sum_j f(k_j) (N softmax(O')_j v_j)'
    Its time grows with the number of tokens.  Rotary positions turn q and k before f.
    Source: Wu et al. 2022, "Flowformer" (arXiv 2202.06258).

    >>> FlowAttention()
    FlowAttention()
    """

    def core(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        f, g = (torch.sigmoid(wide(y)) for y in (q, k))
        n: int | Tensor = k.shape[2]
        if layout.mask is not None:
            f, g, n = _seen(f, layout.mask), _seen(g, layout.mask), layout.mask.sum(-1)[..., None]
        into, out = _flow(f, g.sum(2)), _flow(g, f.sum(2))
        kept, given = _flow(f, (g / out).sum(2)), _flow(g, (f / into).sum(2)).clamp(-1, 1)
        if layout.mask is not None:
            given = given.masked_fill(~layout.mask.mT, -torch.inf)
        state = g.mT @ (wide(v) * n * torch.softmax(given, 2))
        return (torch.sigmoid(kept) * ((f / into) @ state)).to(v.dtype)


def _flow(y: Tensor, total: Tensor) -> Tensor:
    """y_i' total for y [B,H,N,d] and total [B,H,d], as [B,H,N,1]; no sum is zero."""
    return (y + 1e-6) @ (total + 1e-6)[..., None]


def _seen(y: Tensor, mask: Tensor) -> Tensor:
    """Features [B,H,N,d] of the tokens that may be seen, and zeros."""
    return y * mask.mT
