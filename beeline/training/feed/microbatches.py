"""Stateless data sources: a microbatch is a pure function of its number and size."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.training import Microbatches
from beeline.core.rng import Rng
from beeline.core.types import Batch, leaves, take


class FeedBase:
    """Defaults of the Feed protocol: data without indices, loaded as they are, feed without state.

    A subclass gives ``microbatch``.
    """

    sequential = False

    @property
    def origin(self) -> Any:
        return self

    @property
    def identity(self) -> Mapping[str, Any]:
        return {}

    def microbatch(self, number: int, size: int) -> Batch:
        raise NotImplementedError

    def load(self, number: int, size: int) -> Batch:
        return self.microbatch(number, size)

    def encode(self, batch: Batch) -> Batch:
        return batch

    def rows(self, number: int, size: int) -> Tensor | None:
        return None

    def begin(self, step: int, training: Any) -> None:
        pass

    def observe(self, step: int, training: Any, errors: Any, total: Any) -> None:
        pass

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {}, {}

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        pass


@dataclass(frozen=True, eq=False)
class Stateless(FeedBase):
    """Completes a data source that has only ``microbatch`` with the defaults of the Feed protocol."""

    data: Microbatches

    def microbatch(self, number: int, size: int) -> Batch:
        return self.data.microbatch(number, size)


@dataclass(frozen=True, eq=False)
class InMemory(FeedBase):
    """A data set in memory, shuffled every epoch; every datum occurs once per epoch.

    datum i of microbatch n is row p mod N of the permutation of epoch p div N, with p = n size + i
    Assumes that all parts of the batch have the same number of rows.  A microbatch may contain the end of one epoch and
    the start of the next, so no datum is dropped if the size does not divide N.

    >>> feed = InMemory(Batch(torch.arange(5.0)[:, None]), Rng(0))
    >>> sorted(float(x) for n in range(5) for x in feed.microbatch(n, 2).x1) == sorted(2 * [0.0, 1.0, 2.0, 3.0, 4.0])
    True
    """

    batch: Batch
    rng: Rng

    def __post_init__(self) -> None:
        n = len(self.batch.x1)
        require(n > 0, "the data set is empty, but training needs at least one datum; check the path or the selection")
        parts = [("x0", self.batch.x0), ("weight", self.batch.weight)]
        for name, part in parts + [(f"cond {key}".strip(), leaf) for key, leaf in leaves(self.batch.cond)]:
            require(
                part is None or len(part) == n,
                f"the data have {n} rows in x1 but {0 if part is None else len(part)} in {name}; give every part of "
                "the batch one row per datum",
            )

    def __len__(self) -> int:
        return len(self.batch.x1)

    def microbatch(self, number: int, size: int) -> Batch:
        return take(self.batch, self.rows(number, size).to(self.batch.x1.device))

    def rows(self, number: int, size: int) -> Tensor:
        """The indices of the data in a microbatch."""
        return epoch_rows(self.rng, len(self), number, size)


@dataclass(frozen=True, eq=False)
class FromDistribution(FeedBase):
    """Unlimited data from a distribution: every microbatch is a new sample.

    microbatch n ~ distribution, with the random key of n
    Assumes that the distribution has ``sample(n, rng)``, which returns a tensor or a Batch.

    >>> class Ones:
    ...     def sample(self, n, rng):
    ...         return torch.ones(n, 2)
    >>> FromDistribution(Ones(), Rng(0)).microbatch(7, 3).x1.shape
    torch.Size([3, 2])
    """

    distribution: Any
    rng: Rng

    def microbatch(self, number: int, size: int) -> Batch:
        data = self.distribution.sample(size, self.rng.fork("lot", number))
        return data if isinstance(data, Batch) else Batch(data)


def epoch_rows(rng: Rng, n: int, number: int, size: int) -> Tensor:
    """The indices of microbatch ``number`` of ``size`` data, where every epoch is a new permutation of n data."""
    return rows_from(rng, n, number * size, size)


def rows_from(rng: Rng, n: int, position: int, size: int) -> Tensor:
    """The indices of ``size`` data from ``position`` on, where every epoch is a new permutation of n data."""
    rows = []
    while size > 0:
        epoch, start = divmod(position, n)
        part = _order(rng, epoch, n)[start : start + size]
        rows.append(part)
        position += len(part)
        size -= len(part)
    return rows[0] if len(rows) == 1 else torch.cat(rows)


@functools.lru_cache(maxsize=4)
def _order(rng: Rng, epoch: int, n: int) -> Tensor:
    """The permutation of an epoch; cached, because the following microbatches use it too."""
    return rng.fork("epoch", epoch).permutation(n)
