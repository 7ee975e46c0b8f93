"""Shuffled order of data that are read from disk: random enough for training, mostly sequential for the disk."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from beeline.core.rng import Rng

CHUNK = 32  # neighbours on disk that stay together in a buffer


@dataclass(frozen=True)
class BlockOrder:
    """An order of n data, new in every epoch: chunks of neighbours are shuffled, then the data of every ``buffer``.

    datum p of the sequence of all epochs is datum p mod n of epoch p div n
    The order is a function of the position alone, so nothing of it is stored in checkpoints.  Up to ``buffer`` data it
    is a uniform permutation.  Memory is that of one buffer and of one number per chunk.

    >>> order = BlockOrder(100, 40, Rng(0))
    >>> sorted(order.rows(0, 100).tolist()) == list(range(100))
    True
    """

    n: int
    buffer: int
    rng: Rng

    def rows(self, number: int, size: int) -> Tensor:
        """The indices of microbatch ``number`` of ``size`` data."""
        position, parts = number * size, []
        while size > 0:
            epoch, at = divmod(position, self.n)
            block, start = divmod(at, self.buffer)
            part = _block(self, epoch, block)[start : start + size]
            parts.append(part)
            position, size = position + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@functools.lru_cache(maxsize=4)
def _block(order: BlockOrder, epoch: int, number: int) -> Tensor:
    """The shuffled indices of one buffer of an epoch."""
    first, end = number * order.buffer, min(order.n, (number + 1) * order.buffer)
    chunks, ends = _chunks(order, epoch)
    begin, last = (int(torch.searchsorted(ends, torch.tensor(p), right=True)) for p in (first, end - 1))
    rows = torch.cat(
        [torch.arange(int(c) * CHUNK, min(order.n, (int(c) + 1) * CHUNK)) for c in chunks[begin : last + 1]]
    )
    start = int(ends[begin - 1]) if begin else 0
    rows = rows[first - start : end - start]
    return rows[order.rng.fork("block", epoch, number).permutation(len(rows))]


@functools.lru_cache(maxsize=2)
def _chunks(order: BlockOrder, epoch: int) -> tuple[Tensor, Tensor]:
    """The chunks of an epoch in their order, and the number of data up to the end of each."""
    count = -(-order.n // CHUNK)
    chunks = order.rng.fork("chunks", epoch).permutation(count)
    lengths = torch.full((count,), CHUNK)
    lengths[-1] = order.n - (count - 1) * CHUNK
    return chunks, lengths[chunks].cumsum(0)
