"""Fetching: lots prepared ahead by other processes, in the order in which they will be asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from beeline.core.types import Batch, BeelineError
from beeline.learn.feed import Lots


class _Numbered(Dataset[Batch]):
    """Lots as the items of a torch data set, by their number."""

    def __init__(self, lots: Lots, size: int):
        self.lots, self.size = lots, size

    def __getitem__(self, number: int) -> Batch:
        return self.lots.lot(number, self.size)


class Fetched:
    """The lots of another feed, prepared ahead by worker processes.

    Because a lot is decided by its number alone, the data are the same for any number of workers, and nothing of
    them has to be saved.  Asking out of order is answered, at the price of starting anew.
    """

    def __init__(self, lots: Lots, size: int, workers: int, order: Callable[[int], Iterator[int]]):
        self.lots, self.size, self.workers, self._order = lots, size, workers, order
        self._ahead: Iterator[tuple[int, Batch]] | None = None

    def lot(self, number: int, size: int) -> Batch:
        if size != self.size:
            return self.lots.lot(number, size)
        for _ in range(2):
            if self._ahead is None:
                self._ahead = self._start(number)
            try:
                found, batch = next(self._ahead)
            except RuntimeError as error:
                if "worker" not in str(error).lower():
                    raise
                raise BeelineError(
                    f"a process that prepares data died while lot {number} was made ({str(error).splitlines()[0]}); it "
                    "was killed or ran out of memory: free memory, or set training.workers=0 to see the error itself"
                ) from error
            if found == number:
                return batch
            self._ahead = None  # a step back, after a retreat
        raise AssertionError("lots come in the order that was asked for")

    def rows(self, number: int, size: int) -> Any:
        """The indices of the data in a lot."""
        return self.lots.rows(number, size)  # type: ignore[attr-defined]

    def _start(self, number: int) -> Iterator[tuple[int, Batch]]:
        loader: DataLoader[Batch] = DataLoader(
            _Numbered(self.lots, self.size),
            batch_size=None,
            sampler=_From(self._order, number),  # type: ignore[arg-type]
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),  # else it would draw from the global state
        )
        return zip(self._order(number), loader)  # noqa: B905 - both are endless


class _From:
    """Numbers from a start on, again at every iteration."""

    def __init__(self, order: Callable[[int], Iterator[int]], start: int):
        self._order, self._start = order, start

    def __iter__(self) -> Iterator[int]:
        return self._order(self._start)


def order_of(lots: int, rank: int, world: int) -> Callable[[int], Iterator[int]]:
    """The numbers of the lots that one process works, from a number on, without end."""

    def numbers(start: int) -> Iterator[int]:
        step, k = divmod(start, lots)
        while True:
            yield step * lots + k
            k += world
            if k >= lots:
                step, k = step + 1, rank

    return numbers
