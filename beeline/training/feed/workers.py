"""Worker processes that prefetch microbatches."""

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

_AHEAD = 2  # prefetched microbatches per worker


class Prefetched(FeedBase):
    """The microbatches of another feed, prefetched by worker processes.

    A microbatch is a function of its number alone, so the data are the same for any number of workers, and workers have
    no state to save.  Access out of order restarts the prefetching.  Errors of the other feed are raised unchanged.

    Raises BeelineError if a worker dies, at the first microbatch that is missing.  (The DataLoader of torch raises from
    a signal handler, which may be anywhere in a step.)
    """

    def __init__(self, microbatches: Feed, size: int, workers: int, order: Callable[[int], Iterator[int]]):
        self.microbatches, self.size, self.workers, self._order = microbatches, size, workers, order
        self._pool: ProcessPoolExecutor | None = None
        self._ahead: deque[tuple[int, Future[Batch]]] = deque()

    def microbatch(self, number: int, size: int) -> Batch:
        return self.encode(self.load(number, size))

    def encode(self, batch: Batch) -> Batch:
        return self.microbatches.encode(batch)

    def load(self, number: int, size: int) -> Batch:
        if size != self.size:
            return self.microbatches.load(number, size)
        if not self._ahead or self._ahead[0][0] != number:  # the first one, or after a recovery
            self._start(number)
        future = self._ahead.popleft()[1]
        try:
            self._submit()
            return future.result()
        except BrokenProcessPool as error:
            raise BeelineError(
                f"a data worker died while it prepared microbatch {number} or a later one; it was killed or ran out of "
                "memory: free memory, or set training.workers=0 to see the error"
            ) from error

    @property
    def origin(self) -> Feed:
        return self.microbatches

    def rows(self, number: int, size: int) -> Tensor | None:
        """The indices of the data in a microbatch."""
        return self.microbatches.rows(number, size)

    def _start(self, number: int) -> None:
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._numbers = self._order(number)
        if self._pool is None:
            # fork, because feeds may hold open files and functions that cannot be pickled
            context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
            self._pool = ProcessPoolExecutor(self.workers, context, _initialize, (self.microbatches, self.size))
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        for _ in range(_AHEAD * self.workers):
            self._submit()

    def _submit(self) -> None:
        assert self._pool is not None
        number = next(self._numbers)
        self._ahead.append((number, self._pool.submit(_microbatch, number)))


_microbatches: Feed  # of a worker
_size: int


def _initialize(microbatches: Feed, size: int) -> None:
    """Initialise a worker process."""
    global _microbatches, _size
    _microbatches, _size = microbatches, size
    initialize_worker()


def initialize_worker() -> None:
    """One thread, no reaction to Ctrl-C, and an end with the parent: what every worker process needs."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main process stops the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler of the main process
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _microbatch(number: int) -> Batch:
    return _microbatches.load(number, _size)


def microbatch_numbers(microbatches: int, rank: int, world: int) -> Callable[[int], Iterator[int]]:
    """A function that gives the numbers of the microbatches of one process, from a number on, without end."""

    def numbers(start: int) -> Iterator[int]:
        step, k = divmod(start, microbatches)
        while True:
            yield step * microbatches + k
            k += world
            if k >= microbatches:
                step, k = step + 1, rank

    return numbers
