"""Evaluations of a network by several runs at once, in batches that do not change the result."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Wrapping, is_map
from beeline.core.types import Cond, leaves, map_cond
from beeline.serving.hosting.deltas import Amounts

WINDOW = 0.002  # seconds that a batch waits for runs that are between two evaluations
CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True, eq=False)
class Asked:
    """One evaluation that a run waits for."""

    x: Tensor  # [B,*S]
    t: Tensor
    cond: Cond
    s: Tensor | None
    amounts: Tensor | None = None  # [B,K] of low-rank changes
    found: Future[Tensor] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What evaluations of one batch have in common."""
        parts = [(name, leaf.shape[1:], leaf.dtype) for name, leaf in leaves(self.cond)]
        return (self.x.shape[1:], self.x.dtype, self.t.shape[1:], self.s is None, *parts)


class Evaluations:
    """Evaluates a network for the threads of several runs, whose rows share batches.

    A batch has one of ``sizes`` rows and is filled by repeating its first row.  For sizes that give the same bits,
    which ``equal_sizes`` finds, a row does not depend on the others.  ``amounts`` are those of the network that take
    what a row says, where it has low-rank changes.
    """

    def __init__(self, network: nn.Module, sizes: Sequence[int], amounts: Amounts | None = None):
        self.network, self.sizes, self.amounts = network, sorted(sizes), amounts
        self.batches: Counter[int] = Counter()  # number of batches by the rows that were asked for
        self.rows = 0  # evaluated, without those that fill batches
        self._waiting: list[Asked] = []
        self._runs, self._closed, self._changed = 0, False, threading.Condition()
        self._thread = threading.Thread(target=self._work, name="evaluations", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Context manager around a run, whose evaluations others may wait for."""
        with self._changed:
            self._runs += 1
        try:
            yield
        finally:
            with self._changed:
                self._runs -= 1
                self._changed.notify_all()

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, s: Tensor | None, amounts: Tensor | None = None) -> Tensor:
        """The output of the network, after the evaluation of a batch that holds these rows."""
        asked = Asked(x, t, cond, s, amounts)
        with self._changed:
            self._waiting.append(asked)
            self._changed.notify_all()
        return asked.found.result()

    def close(self) -> None:
        """End the thread; evaluations that wait fail."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    for asked in self._waiting:
                        asked.found.set_exception(RuntimeError("the service was stopped"))
                    return
                self._changed.wait_for(lambda: len(self._waiting) >= self._runs or self._closed, WINDOW)
                batch = self._next()
            try:
                self._evaluate(batch)
            except BaseException as error:
                if len(batch) == 1:
                    batch[0].found.set_exception(error)
                    continue
                for asked in batch:  # only the one that fails may fail
                    try:
                        self._evaluate([asked])
                    except BaseException as own:
                        asked.found.set_exception(own)

    def _next(self) -> list[Asked]:
        """The evaluations that share the next batch, the first first."""
        kind, rows = self._waiting[0].kind, 0
        chosen: list[Asked] = []
        for asked in self._waiting:
            if asked.kind == kind and (not chosen or rows + len(asked.x) <= self.sizes[-1]):
                chosen.append(asked)
                rows += len(asked.x)
        taken = set(map(id, chosen))
        self._waiting = [asked for asked in self._waiting if id(asked) not in taken]
        return chosen

    @torch.no_grad()
    def _evaluate(self, batch: list[Asked]) -> None:
        whole = torch.cat([asked.x for asked in batch]), torch.cat([asked.t for asked in batch])
        cond = map_cond(lambda *parts: torch.cat(parts), *(asked.cond for asked in batch))
        s = None if batch[0].s is None else torch.cat([asked.s for asked in batch])  # type: ignore[misc]
        amounts = None if self.amounts is None else torch.cat([self._amounts(asked) for asked in batch])
        out, n = [], len(whole[0])
        for start in range(0, n, self.sizes[-1]):
            rows = slice(start, min(n, start + self.sizes[-1]))
            count = rows.stop - start
            size = next(size for size in self.sizes if size >= count)
            filled = [_filled(part[rows], size) for part in whole]
            here = map_cond(lambda leaf, r=rows, k=size: _filled(leaf[r], k), cond)
            more = () if s is None else (_filled(s[rows], size),)
            if self.amounts is not None and amounts is not None:
                self.amounts.take(_filled(amounts[rows], size))
            out.append(self.network(*filled, here, *more)[:count])
            self.batches[count] += 1
        self.rows += n
        for asked, rows_of in zip(batch, torch.cat(out).split([len(asked.x) for asked in batch]), strict=True):
            asked.found.set_result(rows_of)

    def _amounts(self, asked: Asked) -> Tensor:
        assert self.amounts is not None
        return torch.zeros(len(asked.x), self.amounts.count) if asked.amounts is None else asked.amounts


def _filled(part: Tensor, size: int) -> Tensor:
    """Rows [size,...] that begin with those given; the first one is repeated."""
    return part if len(part) == size else torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])])


class Shared(Wrapping):
    """A network whose evaluations are those of ``Evaluations``; with a graph it is evaluated by itself.

    ``amounts`` are those of low-rank changes in all rows.
    """

    def __init__(self, field: nn.Module, evaluations: Evaluations, amounts: Sequence[float] = ()):
        super().__init__()
        self.field, self.evaluations, self.amounts = field, evaluations, tuple(amounts)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            out: Tensor = self.field(x, t, cond) if s is None else self.field(x, t, cond, s)
            return out
        amounts = torch.tensor(self.amounts).expand(len(x), -1) if any(self.amounts) else None
        return self.evaluations(x, t, cond, s, amounts)

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self  # runs share the thread that evaluates


@torch.no_grad()
def equal_sizes(
    network: nn.Module, x: Tensor, t: Tensor, cond: Cond, most: int, amounts: Amounts | None = None
) -> tuple[list[int], float]:
    """The sizes of batches that give the bits of a batch of ``most`` rows, and the largest difference of other ones.

    ``x`` [most,*S], ``t`` and ``cond`` are rows that differ; they take different ``amounts`` of every low-rank change.
    Kernels choose their order of summation by the shape of a batch, and for a given shape it is that of every row.
    """
    maps = is_map(network)
    taken = None if amounts is None else torch.linspace(0.5, 1.0, most)[:, None].expand(-1, amounts.count)

    def evaluated(rows: slice) -> Tensor:
        if amounts is not None and taken is not None:
            amounts.take(taken[rows])
        here = map_cond(lambda leaf: leaf[rows], cond)
        out: Tensor = network(x[rows], t[rows], here, t[rows]) if maps else network(x[rows], t[rows], here)
        return out

    whole, equal, worst = evaluated(slice(0, most)), [], 0.0
    for size in (n for n in CANDIDATES if n < most):
        found = torch.cat([evaluated(slice(i, i + size)) for i in range(0, most - size + 1, size)])
        difference = float((found - whole[: len(found)]).abs().max())
        worst = max(worst, difference)
        if difference == 0:
            equal.append(size)
    return [*equal, most], worst
