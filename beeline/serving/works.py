"""The work of a request: samples that share runs, and calls that do not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from beeline.core.types import Cond, leaves, map_cond
from beeline.runs.bundle import Bundle
from beeline.sampling.sampler import Sampler
from beeline.serving.hosting.hosts import Host, Replica
from beeline.serving.hosting.residents import Residents

AT_ONCE = 2**20  # numbers of a run whose rows go through it together


@dataclass(frozen=True, eq=False)
class Model:
    """A bundle that is served."""

    name: str
    bundle: Bundle  # as it was loaded, on no device where its weights are not always there
    host: Host
    residents: Residents

    def use(self) -> contextlib.AbstractContextManager[Replica]:
        """Its network on a device, loaded, for one run."""
        return self.residents.use(self.host)

    def amounts(self, adapters: Mapping[str, float] | None = None) -> tuple[float, ...]:
        """What it takes of the changes of its network, and the amounts of more of them; ValueError for unknown ones."""
        return self.host.amounts(self.name, adapters or {})


@dataclass(frozen=True, eq=False)
class Result:
    """What a work found: data in the user's own form, and facts beside them as plain data."""

    raw: Any = None  # None where the facts are all
    facts: dict[str, Any] = field(default_factory=dict)


class JobProgress(Protocol):
    """A job, as far as its work knows it."""

    @property
    def left(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def reached(self, t: float, x: Tensor) -> None:
        """Note the state of the flow [n,*S] at the time ``t``."""
        ...


class Work(Protocol):
    """What is to be done for a request, checked."""

    @property
    def model(self) -> str:
        """The name of its model."""
        ...

    @property
    def rows(self) -> int:
        """The number of its data."""
        ...

    @property
    def kind(self) -> tuple[Any, ...]:
        """What works of one run have in common."""
        ...

    @property
    def alone(self) -> bool:
        """Whether a run has this work alone."""
        ...

    def together(self, works: Sequence[Any], jobs: Sequence[JobProgress], replica: Replica, most: int) -> list[Result]:
        """The results of works of this kind in one run of batches of at most ``most`` rows.

        Raises CancelledError as soon as nobody waits for any of them.
        """
        ...


class CancelledError(Exception):
    """Nobody waits for a run any more."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """Samples: rows of source points with their conditions, by one sampler."""

    model: str
    seeds: tuple[int, ...]  # one of every sample
    given: Any  # the condition in the user's form
    cond: Cond  # the same for the network, [n,...]
    sampler: Sampler
    amounts: tuple[float, ...] = ()  # of low-rank changes of the network

    @property
    def rows(self) -> int:
        """One for every seed."""
        return len(self.seeds)

    @property
    def kind(self) -> tuple[Any, ...]:
        """The model, the form of the condition, the sampler and the changes."""
        return (
            self.model,
            self.sampler,
            self.amounts,
            *[(name, leaf.shape[1:], leaf.dtype) for name, leaf in leaves(self.cond)],
        )

    @property
    def alone(self) -> bool:
        """No."""
        return False

    def together(
        self, works: Sequence[Drawing], jobs: Sequence[JobProgress], replica: Replica, most: int
    ) -> list[Result]:
        """One run for all rows."""
        bundle, counts = replica.shared(self.model, self.amounts), [work.rows for work in works]
        seeds = [seed for work in works for seed in work.seeds]
        cond = map_cond(lambda *parts: torch.cat(parts), *(work.cond for work in works))

        def watch(x: Tensor, t: Tensor) -> None:
            if all(job.left for job in jobs):
                raise CancelledError
            for job, part in zip(jobs, x.split(counts), strict=True):
                job.reached(float(t.flatten()[0]), part)

        how = self.sampler.seeded(seeds, 0)
        start = bundle.start(seeds)
        rows = max(most, AT_ONCE // start[0].numel())  # of which evaluations take at most ``most`` at a time
        whole = len(seeds) <= rows  # previews and cancellation need all rows at once
        with replica.evaluations.run():
            made = bundle.draw(start, cond, sampler=how, batch_size=rows, watch=watch if whole else None)
        evaluations, parts = self.sampler.evaluations, made.cpu().split(counts)  # counting them takes a while
        return [work._result(bundle, part, evaluations) for work, part in zip(works, parts, strict=True)]

    def drawn(self, bundle: Bundle) -> Result:
        """The samples of a bundle that no other run uses."""
        how = self.sampler.seeded(list(self.seeds), 0)
        made = bundle.draw(bundle.start(self.seeds), self.cond, sampler=how)
        return self._result(bundle, made.cpu(), self.sampler.evaluations)

    def _result(self, bundle: Bundle, x: Tensor, evaluations: int | None) -> Result:
        raw = bundle.modality.decode(x)
        facts = {"seeds": list(self.seeds), "condition": self.given, "evaluations": evaluations}
        return Result(raw if self.given is None else bundle.modality.with_condition(raw, self.given), facts)


@dataclass(frozen=True, eq=False)
class Task:
    """A call for one request alone, on a copy of the bundle that no other run uses."""

    model: str
    rows: int
    call: Callable[[Bundle], Result]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Of its own."""
        return (self,)

    @property
    def alone(self) -> bool:
        """Yes."""
        return True

    def together(self, works: Sequence[Task], jobs: Sequence[JobProgress], replica: Replica, most: int) -> list[Result]:
        """The results, one after another."""
        with replica.alone(self.model) as bundle:
            return [work.call(bundle) for work in works]
