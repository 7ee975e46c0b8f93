"""Fetching: microbatches prepared ahead by other processes, in the order in which they will be asked for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch
from torch import Tensor

from beeline.core.errors import BeelineError
from beeline.core.protocols.training import Feed
from beeline.core.types import Batch
from beeline.training.feed.microbatches import FeedBase

_AHEAD = 2  # microbatches in the making per worker


class Fetched(FeedBase):
    """The microbatches of another feed, prepared ahead by worker processes.

    Because a microbatch is decided by its number alone, the data are the same for any number of workers, and nothing of
    them has to be saved.  Asking out of order is answered, at the price of starting anew.  Errors that it raises
    come out as they are.

    Raises BeelineError when a worker dies, at the first microbatch that it leaves unmade.  (torch's DataLoader raises
    from a signal handler, thus anywhere in the step that happens to run.)
    """

    def __init__(self, microbatches: Feed, size: int, workers: int, order: Callable[[int], Iterator[int]]):
        self.microbatches, self.size, self.workers, self._order = microbatches, size, workers, order
        self._pool: ProcessPoolExecutor | None = None
        self._ahead: deque[tuple[int, Future[Batch]]] = deque()

    def microbatch(self, number: int, size: int) -> Batch:
        if size != self.size:
            return self.microbatches.microbatch(number, size)
        if not self._ahead or self._ahead[0][0] != number:  # the start, or a step back after a recovery
            self._start(number)
        made = self._ahead.popleft()[1]
        try:
            self._submit()
            return made.result()
        except BrokenProcessPool as error:
            raise BeelineError(
                f"a process that prepares data died while microbatch {number} was made, or another one ahead of it; it "
                "was killed or ran out of memory: free memory, or set training.workers=0 to see the error itself"
            ) from error

    @property
    def origin(self) -> Feed:
        return self.microbatches

    def rows(self, number: int, size: int) -> Tensor | None:
        """The indices of the data in a microbatch."""
        return self.microbatches.rows(number, size)

    def _start(self, number: int) -> None:
        for _, late in self._ahead:
            late.cancel()
        self._ahead.clear()
        self._numbers = self._order(number)
        if self._pool is None:
            # fork, so that microbatches need not be pickled: they hold open files and functions of the user
            context = multiprocessing.get_context("fork" if hasattr(os, "fork") else None)
            self._pool = ProcessPoolExecutor(self.workers, context, _prepare, (self.microbatches, self.size))
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        for _ in range(_AHEAD * self.workers):
            self._submit()

    def _submit(self) -> None:
        assert self._pool is not None
        number = next(self._numbers)
        self._ahead.append((number, self._pool.submit(_make, number)))


_microbatches: Feed  # of a worker
_size: int


def _prepare(microbatches: Feed, size: int) -> None:
    """What a new worker does first."""
    global _microbatches, _size
    _microbatches, _size = microbatches, size
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler that the main process has by now
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(number: int) -> Batch:
    return _microbatches.microbatch(number, _size)


def order_of(microbatches: int, rank: int, world: int) -> Callable[[int], Iterator[int]]:
    """The numbers of the microbatches that one process works, from a number on, without end."""

    def numbers(start: int) -> Iterator[int]:
        step, k = divmod(start, microbatches)
        while True:
            yield step * microbatches + k
            k += world
            if k >= microbatches:
                step, k = step + 1, rank

    return numbers
