"""What a block may know of its tokens, and the notes that it gives beside them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import Stages

Notes: TypeAlias = Mapping[str, Tensor]
"""Scalars of a forward pass by name, such as the balance of experts: terms of a loss, or for the log."""

NONE: Notes = {}


class Part:
    """What part of a network is used; the defaults use all of it.  Modules call it, with one set of weights."""

    visits: tuple[int, ...] | None = None  # numbers of the visits of blocks that are made; None for all

    def heads(self, mixed: Tensor) -> Tensor:
        """Mixed values [B,H,N,d] of heads, before the layer that joins them."""
        return mixed

    def hidden(self, u: Tensor) -> Tensor:
        """Hidden channels [B,N,F] of a feed, before its last layer."""
        return u

    def fed(self, out: Tensor) -> Tensor:
        """The output [B,N,D] of a feed."""
        return out

    def of_rows(self, rows: Tensor) -> Part:
        """The same for some rows of the batch."""
        return self

    def at(self, visit: int) -> Part:
        """What is used in one visit."""
        return self


WHOLE = Part()


After: TypeAlias = Mapping[int, Callable[[Tensor, int], Tensor]]
"""By the number of a visit: (tokens [B,N,D] after it, number of tokens of the datum) -> changed tokens."""


ControlOf: TypeAlias = Callable[[Stages], tuple[Stages, After]]
"""Changes a forward pass that was begun, and says what is changed after visits."""

NO_CHANGE: After = {}


def _unchanged(stages: Stages) -> tuple[Stages, After]:
    return stages, NO_CHANGE


class Asked(NamedTuple):
    """What is asked of the flow transformers of a thread, beside their output."""

    notes: list[Notes] | None = None  # where a forward pass adds its notes
    part: Part = WHOLE
    control: ControlOf = _unchanged  # changes a forward pass that was begun


_ASKED: ContextVar[Asked] = ContextVar("what is asked of transformers", default=Asked())  # noqa: B039 - a tuple


def asked() -> Asked:
    """What is asked in this thread; read once in a forward pass, as compiled graphs are divided there."""
    return _ASKED.get()


@contextlib.contextmanager
def collected_notes() -> Iterator[list[Notes]]:
    """Context manager: a list of the notes of every forward pass of a flow transformer inside, in this thread.

    An engine calls a network by its ``forward`` alone, which is why notes are collected around the call.
    """
    notes: list[Notes] = []
    with _asking(asked()._replace(notes=notes)):
        yield notes


def controlling(control: ControlOf) -> contextlib.AbstractContextManager[None]:
    """Context manager: forward passes of flow transformers inside, in this thread, are changed after they are begun."""
    return _asking(asked()._replace(control=control))


def subnetwork(part: Part) -> contextlib.AbstractContextManager[None]:
    """Context manager: flow transformers inside, in this thread, are evaluated with a part of their weights."""
    return _asking(asked()._replace(part=part))


@contextlib.contextmanager
def _asking(what: Asked) -> Iterator[None]:
    token = _ASKED.set(what)
    try:
        yield
    finally:
        _ASKED.reset(token)


class ReadsNull(nn.Module):
    """Base of modules that read ``Layout.null``, which a network computes for these alone."""


class HintKeys(NamedTuple):
    """Keys and values [B,H,M,d] of a hint, which all queries see beside those of the network.

    mixed = mix(q, k, v) + gain (mix(q, [k, k_hint], [v, v_hint]) - mix(q, k, v))
    """

    k: Tensor
    v: Tensor
    gain: Tensor  # [] or [B,1,1,1]

    def of_rows(self, rows: Tensor) -> HintKeys:
        """Those of some rows of the batch."""
        return HintKeys(self.k[rows], self.v[rows], self.gain[rows] if self.gain.ndim else self.gain)


class Layout(NamedTuple):
    """The tokens of a forward pass: those of the datum in their order, then those of the conditions.

    A module stores nothing during a forward pass: what it needs is here, and what it gives is returned.
    """

    grid: tuple[int, ...]  # patches along every axis of the datum; their product is the number of its tokens
    turn: Tensor | None = (
        None  # [tokens or B x tokens, channels of a head / 2, 2] cosines and sines of rotary positions
    )
    noting: bool = False  # whether blocks return (tokens, notes)
    keep: Tensor | None = None  # [B, all tokens] bool: which tokens others may see; None for all of them
    null: Tensor | None = None  # [B] bool: rows whose condition is the null; None where that is not known
    part: Part = WHOLE  # of heads and hidden channels
    segments: Tensor | None = None  # [B,N] the datum of every token of rows that hold several, -1 for none
    sizes: Tensor | None = None  # [B, tokens of the datum, or all] how many tokens each stands for; None for one
    gather: Callable[[Tensor], Tensor] | None = None  # [B,H,n,d] of this process -> of the tokens of all processes
    hints: tuple[HintKeys, ...] = ()  # which the queries of the first attention of a block see too
    heard: list[tuple[Tensor, Tensor]] | None = None  # where that attention adds its keys and values

    @property
    def tokens(self) -> int:
        """The number of tokens of the datum."""
        return math.prod(self.grid)

    def at(self, visit: int) -> Layout:
        """The layout of one visit."""
        part = self.part.at(visit)
        return self if part is self.part else self._replace(part=part)

    @property
    def mask(self) -> Tensor | None:
        """Which keys queries may see, bool [B,1,1,all tokens], or [B,1,N,N] in rows of several data; None for all."""
        if self.segments is not None:
            return (self.segments[:, :, None] == self.segments[:, None])[:, None]
        return None if self.keep is None else self.keep[:, None, None]

    def bias(self, keys: Tensor) -> Tensor | None:
        """The mask for softmax attention to ``keys`` [B,H,N,d], with ln(size) of tokens that stand for several."""
        if self.sizes is None:
            return self.mask
        logits = F.pad(self.sizes.to(keys).log(), (0, keys.shape[2] - self.sizes.shape[1]))[:, None, None]
        return logits if self.mask is None else logits.masked_fill(~self.mask, -torch.inf)

    def spread(self, told: Tensor) -> Tensor:
        """Modulation [B,C] of data for their tokens: [B,1,C], or [B,N,C] in rows of several data."""
        return told[:, None] if self.segments is None or len(told) == 1 else told[self.segments.clamp(min=0)]

    def of_rows(self, rows: Tensor) -> Layout:
        """The layout of some rows of the batch."""
        keep, null, sizes = (None if value is None else value[rows] for value in (self.keep, self.null, self.sizes))
        turn = self.turn if self.turn is None or self.turn.ndim == 3 else self.turn[rows]
        part, hints = self.part.of_rows(rows), tuple(hint.of_rows(rows) for hint in self.hints)
        return self._replace(keep=keep, null=null, sizes=sizes, turn=turn, part=part, hints=hints)

    def of_tokens(self, index: Tensor) -> Layout:
        """The layout of some tokens of the datum, [M] for all rows or [B,M], in one axis, and of all other tokens."""
        turn, keep, n = self.turn, self.keep, self.tokens
        if turn is not None:
            turn = turn[index] if turn.ndim == 3 else torch.stack([t[i] for t, i in zip(turn, index, strict=True)])
        if keep is not None:
            own = keep[:, index] if index.ndim == 1 else keep[:, :n].gather(1, index)
            keep = torch.cat([own, keep[:, n:]], 1)
        return self._replace(grid=(index.shape[-1],), turn=turn, keep=keep)

    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Layout]:
        """Keys and values [B,H,N,d] that queries see, and their layout: those of all processes."""
        if self.gather is None:
            return k, v, self
        n, keep, others = self.tokens, self.keep, k.shape[2] - self.tokens
        k, v = (torch.cat([self.gather(y[:, :, :n]), y[:, :, n:]], 2) for y in (k, v))
        count = k.shape[2] - others
        if keep is not None:  # those of the datum may all be seen
            keep = torch.cat([keep.new_ones(len(keep), count), keep[:, n:]], 1)
        return k, v, self._replace(keep=keep, grid=(count,))

    def wider(self, more: int) -> Layout:
        """The layout of keys with so many more after them, which all queries may see."""
        return self if self.keep is None else self._replace(keep=F.pad(self.keep, (0, more), value=True))

    def turned(self, q: Tensor) -> Tensor:
        """Queries or keys [B,H,N,d] turned by their positions; tokens after those of the table stay as they are.

        Pairs (q_2i, q_2i+1) are rotated by an angle that is linear in the position, so that logits depend on
        differences of positions.
        Source: Su et al. 2021, "RoFormer" (arXiv 2104.09864).
        """
        if self.turn is None:
            return q
        n = self.turn.shape[-3]
        table = self.turn.to(q)
        cos, sin = (table if table.ndim == 3 else table[:, None]).unbind(-1)  # [n, d/2] or [B, 1, n, d/2]
        a, b = q[:, :, :n].unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        return turned if n == q.shape[2] else torch.cat([turned, q[:, :, n:]], 2)
