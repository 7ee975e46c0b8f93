"""Data that can only be read in order, such as a data set that is streamed over a network, with exact resume."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.training.distributed.parallel import local_device
from beeline.training.feed.microbatches import FeedBase

HEAD = 64  # records at the start that stay in memory, for a fingerprint of the data


class Stream(Protocol):
    """Records in order, with a state; the IterableDataset of the library ``datasets`` is one."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]:
        """The state after the last record, or before the first one, as JSON data."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iteration start from a state."""
        ...


class Mark(NamedTuple):
    """The place in a part where a block begins."""

    epoch: int
    used: int  # records of the epoch before it
    start: int  # records of all epochs before it
    state: dict[str, Any] | None  # of the stream; None at the start of an epoch, and where counting takes its place


class Block(NamedTuple):
    """Consecutive records of a part, in shuffled order."""

    mark: Mark
    records: list[Any]

    @property
    def end(self) -> int:
        return self.mark.start + len(self.records)


class Part:
    """The records of one stream, endlessly, shuffled within blocks of ``buffer`` records; read ahead by a thread.

    ``skip`` records at the start of every epoch are left out.  Records may be asked for in any order; only ascending
    order is fast.  With ``counted`` the state of the stream is not used, and a place in it is found by counting
    records: for a stream whose state lacks records, such as those in a shuffle buffer.  The stream is read in one order
    in all epochs, so that the records that are left out are the same.
    """

    def __init__(self, stream: Stream, buffer: int, skip: int, rng: Rng, counted: bool = False):
        self.stream, self.buffer, self.skip, self.rng = stream, buffer, skip, rng
        self._initial = json.dumps(stream.state_dict())
        self._exact = not counted and resumes(stream)
        self.head: list[Any] = []
        self._blocks: list[Block] = []  # the current one and the one before it
        self._at: Mark | None = None  # of the block that was used last
        self._reader = ThreadPoolExecutor(1)
        self._ahead: Future[Block] | None = None
        self._open(Mark(0, 0, 0, None))

    def take(self, position: int, size: int) -> list[Any]:
        """``size`` records from ``position`` on."""
        if position + size <= len(self.head):
            return self.head[position : position + size]
        if self._blocks and position < self._blocks[0].mark.start:
            self.move(Mark(0, 0, 0, None))
        found: list[Any] = []
        while size > 0:
            while not self._blocks or position >= self._blocks[-1].end:
                self._advance()
            block = next(block for block in self._blocks if position < block.end)
            first = position - block.mark.start
            part = block.records[first : first + size]
            found += part
            position, size, self._at = position + len(part), size - len(part), block.mark
        return found

    @property
    def mark(self) -> Mark | None:
        """The mark of the block that was used last; None before the first one."""
        return self._at

    def move(self, mark: Mark) -> None:
        """Go to the block that begins at ``mark``."""
        if self._ahead is not None:
            self._ahead.exception()  # wait for the reader
        self._ahead, self._at, self._blocks = None, None, []
        self._open(mark)

    def _open(self, mark: Mark) -> None:
        """Open the stream at a mark, by its state if there is one, else by counting."""
        state = self._initial if mark.state is None else json.dumps(mark.state)
        self.stream.load_state_dict(json.loads(state))  # a copy, because the stream writes to it
        self._records = iter(self.stream)
        if mark.state is None:
            for _ in itertools.islice(self._records, self.skip + mark.used):
                pass
        self._next = mark

    def _advance(self) -> None:
        block = self._read() if self._ahead is None else self._ahead.result()
        if block.mark.start == 0:
            self.head = block.records[:HEAD]
        self._blocks = [*self._blocks[-1:], block]
        self._ahead = self._reader.submit(self._read)

    def _read(self) -> Block:
        """The next block; an epoch ends with a shorter one."""
        mark = self._next
        records = list(itertools.islice(self._records, self.buffer))
        if not records:
            require(
                mark.used > 0,
                f"the stream has no records beyond the first {self.skip}, which are held out; check its source, or "
                "hold out fewer",
            )
            self._open(Mark(mark.epoch + 1, 0, mark.start, None))
            return self._read()
        state = dict(self.stream.state_dict()) if self._exact else None
        self._next = Mark(mark.epoch, mark.used + len(records), mark.start + len(records), state)
        order = self.rng.fork("block", mark.epoch, mark.used).permutation(len(records)).tolist()
        return Block(mark, [records[i] for i in order])


def resumes(stream: Stream) -> bool:
    """Whether a stream continues from a state with the next record, found by a trial."""
    initial, records = json.dumps(stream.state_dict()), iter(stream)
    first = list(itertools.islice(records, 2))
    state = json.dumps(stream.state_dict())
    expected = next(records, None)
    stream.load_state_dict(json.loads(state))
    found = next(iter(stream), None)
    stream.load_state_dict(json.loads(initial))
    return len(first) == 2 and expected is not None and repr(found) == repr(expected)


class StreamFeed(FeedBase):
    """Microbatches of records that are read in order; a subclass makes a Batch of records by ``batch``.

    Microbatch n holds the next records of part n mod P, of P parts that are read side by side.  With as many parts as
    processes, every process reads its own part and no other.
    The data depend on the number alone, as those of other feeds do: after a return to an earlier microbatch a part is
    read again.  Checkpoints hold a state for every part, so that a resumed run reads at most one block twice.
    ``training.workers`` is the number of threads that decode records.
    """

    sequential = True

    def __init__(self, parts: Sequence[Stream], buffer: int, skip: int, rng: Rng, counted: bool = False):
        self.parts = [Part(stream, buffer, skip, rng.fork("part", i), counted) for i, stream in enumerate(parts)]
        self._total: Callable[[Tensor], Tensor] | None = None
        self._threads: ThreadPoolExecutor | None = None

    def batch(self, records: Sequence[Any], number: int) -> Batch:
        """The records of microbatch ``number``, in the form of ``load``."""
        raise NotImplementedError

    def each(self, function: Callable[..., Any], *inputs: Sequence[Any]) -> list[Any]:
        """The results of a function for some inputs, by several threads if there are any."""
        return list((map if self._threads is None else self._threads.map)(function, *inputs))

    def load(self, number: int, size: int) -> Batch:
        turn, part = divmod(number, len(self.parts))
        return self.batch(self.parts[part].take(turn * size, size), number)

    def microbatch(self, number: int, size: int) -> Batch:
        return self.encode(self.load(number, size))

    def begin(self, step: int, training: Any) -> None:
        if training.workers and self._threads is None:
            self._threads = ThreadPoolExecutor(training.workers)

    def observe(self, step: int, training: Any, errors: Any, total: Callable[[Tensor], Tensor]) -> None:
        self._total = total

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        own = {i: list(part.mark) for i, part in enumerate(self.parts) if part.mark is not None}
        marks = own if self._total is None else gathered(own, len(self.parts), self._total)
        return {"parts": {str(i): mark for i, mark in marks.items()}}, {}

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        for i, mark in plain["parts"].items():
            if int(i) < len(self.parts):
                self.parts[int(i)].move(Mark(*mark))


def gathered(own: Mapping[int, Any], count: int, total: Callable[[Tensor], Tensor]) -> dict[int, Any]:
    """The entries of all processes; where several have one, that of this process, and none where it has none.

    ``own``: the entries of this process by number, 0 .. count-1, as JSON data.
    """
    texts = {i: json.dumps(entry).encode() for i, entry in own.items()}
    sizes = torch.zeros(2, count, dtype=torch.int64, device=local_device())
    for i, text in texts.items():
        sizes[0, i], sizes[1, i] = len(text), 1
    lengths, owners = total(sizes).tolist()
    alone = [i for i in range(count) if owners[i] == 1]
    letters = torch.zeros(len(alone), max((lengths[i] for i in alone), default=0), dtype=torch.int32)
    for row, i in enumerate(alone):
        if i in texts:
            letters[row, : len(texts[i])] = torch.tensor(list(texts[i]), dtype=torch.int32)
    letters = total(letters.to(local_device())).cpu() if alone else letters
    found = {i: json.loads(bytes(letters[row, : lengths[i]].tolist())) for row, i in enumerate(alone)}
    return dict(own) | found
