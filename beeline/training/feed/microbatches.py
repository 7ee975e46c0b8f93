"""Feeds: data as numbered lots, so that the number alone decides what a lot holds."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beeline.core.protocols.training import Lots
from beeline.core.rng import Rng
from beeline.core.types import Batch, BeelineError, leaves, require, take


@dataclass(frozen=True, eq=False)
class InMemory:
    """A data set in memory, in a new order every epoch, every datum once per epoch.

    datum i of lot n is row p mod N of the order of epoch p div N, with p = n size + i
    Assumes that every part of the batch has the same number of rows.  A lot may hold the end of one epoch and the
    start of the next, so no datum is left out when the size does not divide N.
    Source: none; a permutation with a key.

    >>> feed = InMemory(Batch(torch.arange(5.0)[:, None]), Rng(0))
    >>> sorted(float(x) for n in range(5) for x in feed.lot(n, 2).x1) == sorted(2 * [0.0, 1.0, 2.0, 3.0, 4.0])
    True
    """

    batch: Batch
    rng: Rng

    def __post_init__(self) -> None:
        n = len(self.batch.x1)
        require(n > 0, "the data set is empty; learning needs at least one datum: check what was loaded")
        parts = [("x0", self.batch.x0), ("weight", self.batch.weight)]
        for name, part in parts + [(f"cond {key}".strip(), leaf) for key, leaf in leaves(self.batch.cond)]:
            require(
                part is None or len(part) == n,
                f"the data have {n} rows in x1 but {0 if part is None else len(part)} in {name}; "
                "every part of a batch has one row per datum",
            )

    def __len__(self) -> int:
        return len(self.batch.x1)

    def lot(self, number: int, size: int) -> Batch:
        return take(self.batch, self.rows(number, size).to(self.batch.x1.device))

    def rows(self, number: int, size: int) -> Tensor:
        """The indices of the data in a lot."""
        n = len(self)
        position = number * size
        rows = []
        while size > 0:
            epoch, start = divmod(position, n)
            part = _order(self.rng, epoch, n)[start : start + size]
            rows.append(part)
            position += len(part)
            size -= len(part)
        return rows[0] if len(rows) == 1 else torch.cat(rows)


@dataclass(frozen=True, eq=False)
class FromLaw:
    """An exact law as endless data: every lot is a fresh draw.

    lot n ~ law, under the key of n
    Assumes that the law has ``sample(n, rng)``, which gives a tensor or a Batch.
    Source: none.

    >>> class Ones:
    ...     def sample(self, n, rng):
    ...         return torch.ones(n, 2)
    >>> FromLaw(Ones(), Rng(0)).lot(7, 3).x1.shape
    torch.Size([3, 2])
    """

    law: Any
    rng: Rng

    def lot(self, number: int, size: int) -> Batch:
        made = self.law.sample(size, self.rng.fork("lot", number))
        return made if isinstance(made, Batch) else Batch(made)


@functools.lru_cache(maxsize=4)
def _order(rng: Rng, epoch: int, n: int) -> Tensor:
    """The order of an epoch; kept for the lots that follow, though it could be made again at any time."""
    return rng.fork("epoch", epoch).permutation(n)


def as_lots(data: Any, rng: Rng) -> Lots:
    """Numbered lots from whatever a user has: a Batch, a tensor [N,*S], a law, or something that has lots already."""
    if isinstance(data, Tensor):
        require(
            data.is_floating_point() and data.ndim >= 2,
            f"the data are {data.dtype} of shape {tuple(data.shape)}; learning needs floating point numbers [N,*S]: "
            "encode them with a modality, or convert them",
        )
        data = Batch(data)
    if isinstance(data, Batch):
        return InMemory(data, rng)
    if isinstance(data, Lots):
        return data
    if hasattr(data, "sample"):
        return FromLaw(data, rng)
    raise BeelineError(
        f"data of type {type(data).__name__} have neither lots nor sample(n, rng); give a tensor [N,*S], a Batch, "
        "a law, or anything with lot(number, size)"
    )
