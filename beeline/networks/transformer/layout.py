"""What a block may know of its tokens, and the notes that it gives beside them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

Notes: TypeAlias = Mapping[str, Tensor]
"""Scalars of a forward pass by name, such as the balance of experts: terms of a loss, or for the log."""

NONE: Notes = {}


_COLLECTED: ContextVar[list[Notes] | None] = ContextVar("notes of transformers", default=None)


@contextlib.contextmanager
def collected_notes() -> Iterator[list[Notes]]:
    """Context manager: a list of the notes of every forward pass of a flow transformer inside, in this thread.

    An engine calls a network by its ``forward`` alone, which is why notes are collected around the call.
    """
    notes: list[Notes] = []
    token = _COLLECTED.set(notes)
    try:
        yield notes
    finally:
        _COLLECTED.reset(token)


def collector() -> list[Notes] | None:
    """The list to which a forward pass adds its notes; None where nobody asks for them."""
    return _COLLECTED.get()


class ReadsNull(nn.Module):
    """Base of modules that read ``Layout.null``, which a network computes for these alone."""


class Layout(NamedTuple):
    """The tokens of a forward pass: those of the datum in their order, then those of the conditions.

    A module stores nothing during a forward pass: what it needs is here, and what it gives is returned.
    """

    grid: tuple[int, ...]  # patches along every axis of the datum; their product is the number of its tokens
    turn: Tensor | None = None  # [tokens, channels of a head / 2, 2] cosines and sines of rotary positions
    noting: bool = False  # whether blocks return (tokens, notes)
    keep: Tensor | None = None  # [B, all tokens] bool: which tokens others may see; None for all of them
    null: Tensor | None = None  # [B] bool: rows whose condition is the null; None where that is not known

    @property
    def tokens(self) -> int:
        """The number of tokens of the datum."""
        return math.prod(self.grid)

    @property
    def mask(self) -> Tensor | None:
        """Which keys queries may see, bool [B,1,1,all tokens]; None for all of them."""
        return None if self.keep is None else self.keep[:, None, None]

    def of_rows(self, rows: Tensor) -> Layout:
        """The layout of some rows of the batch."""
        keep, null = (None if value is None else value[rows] for value in (self.keep, self.null))
        return self._replace(keep=keep, null=null)

    def turned(self, q: Tensor) -> Tensor:
        """Queries or keys [B,H,N,d] turned by their positions; tokens after those of the table stay as they are.

        Pairs (q_2i, q_2i+1) are rotated by an angle that is linear in the position, so that logits depend on
        differences of positions.
        Source: Su et al. 2021, "RoFormer" (arXiv 2104.09864).
        """
        if self.turn is None:
            return q
        n = len(self.turn)
        cos, sin = self.turn.to(q).unbind(-1)  # [n, d/2]
        a, b = q[:, :, :n].unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        return turned if n == q.shape[2] else torch.cat([turned, q[:, :, n:]], 2)
