"""Guidance that depends on the flow or on the times of a run, and parts that hold such guidance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor

from beeline.core.declared import fields_of
from beeline.core.errors import BeelineError, require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Reference, reference_calls
from beeline.fields.flow import Flow


class FlowDependent(ABC):
    """Base class of guidance, references and rules that depend on the flow in addition to its field."""

    @abstractmethod
    def for_flow(self, flow: Flow) -> Any:
        """The guidance, reference or rule for ``flow``."""


class TimesDependent(ABC):
    """Base class of guidance, references and rules that depend on the steps of a run."""

    @abstractmethod
    def for_times(self, times: Tensor) -> Any:
        """The guidance, reference or rule for a run over ``times`` [steps+1], on any device."""


@runtime_checkable
class SeedsDependent(Protocol):
    """Guidance, references and rules with random numbers."""

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        """The same with one seed per sample, so that samples do not depend on their batch."""
        ...

    def for_rows(self, start: int, end: int) -> Any:
        """The same for rows start .. end-1 of a batch: with their seeds, or without seeds with a key of its own."""
        ...


class Containing(FlowDependent, TimesDependent):
    """Base of frozen dataclasses that hold guidance, references or rules, alone or in tuples.

    The flow, the times of a run and the seeds of its samples are passed on to all of them.
    """

    def for_flow(self, flow: Flow) -> Any:
        """The same with its parts for ``flow``."""
        return _with_parts(self, lambda part: part.for_flow(flow) if isinstance(part, FlowDependent) else part)

    def for_times(self, times: Tensor) -> Any:
        """The same with its parts for a run over ``times`` [steps+1]."""
        return _with_parts(self, lambda part: part.for_times(times) if isinstance(part, TimesDependent) else part)

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        """The same with its parts for one seed per sample."""
        return _with_parts(self, lambda part: with_seeds(part, seeds, *names))

    def for_rows(self, start: int, end: int) -> Any:
        """The same with its parts for rows start .. end-1 of a batch."""
        return _with_parts(self, lambda part: for_rows(part, start, end))


def with_seeds(part: Any, seeds: Sequence[int], *names: int | str | float) -> Any:
    """Guidance or a part of it with one seed per sample; itself where it has no random numbers."""
    return part.with_seeds(seeds, *names) if isinstance(part, SeedsDependent) else part


def for_rows(part: Any, start: int, end: int) -> Any:
    """Guidance or a part of it for rows start .. end-1 of a batch; itself where it has no random numbers."""
    return part.for_rows(start, end) if isinstance(part, SeedsDependent) else part


def _with_parts(whole: Any, change: Callable[[Any], Any]) -> Any:
    """A frozen dataclass with changed fields and elements of tuples; itself where nothing changes."""
    changed = {}
    for name, value in fields_of(whole).items():
        new = tuple(change(part) for part in value) if type(value) is tuple else change(value)
        same = new is value or (type(value) is tuple and all(a is b for a, b in zip(new, value, strict=True)))
        if not same:
            changed[name] = new
    return replace(whole, **changed) if changed else whole


class RunSteps:
    """The steps of one run, found by a time of evaluation inside them.

    >>> start, end = RunSteps(torch.tensor([0.0, 0.5, 1.0]), "an example").around(torch.tensor([0.5, 0.7, 1.0]))
    >>> start.tolist(), end.tolist()
    ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0])
    """

    def __init__(self, times: Tensor, whose: str):
        require(
            times.ndim == 1 and len(times) > 1,
            f"{whose} got times of shape {tuple(times.shape)}; its weights depend on the steps, which are the same for "
            "all samples: give times [steps+1]",
        )
        self.times, self._whose = host_times(times).double(), whose
        sign = 1.0 if self.times[-1] > self.times[0] else -1.0
        shortest = float(self.times.diff().abs().min())
        self._sign, self._edges = sign, sign * self.times[1:-1] - 1e-3 * shortest  # times are rounded to float32
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def around(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end of the step of every time in ``t``, in its shape and dtype; the last step includes its end."""
        if t.device not in self._on:
            self._on[t.device] = (self._edges.to(t.device), self.times.to(t.device))
        edges, times = self._on[t.device]
        index = torch.searchsorted(edges, (self._sign * t.double()).contiguous(), right=True)
        return times[index].to(t), times[index + 1].to(t)

    def index(self, t: Tensor) -> int:
        """The number of the step, from 0, of the times ``t``; ValueError where samples are in different steps."""
        found = torch.searchsorted(self._edges, self._sign * host_times(t).double().flatten(), right=True)
        require(
            bool((found == found[0]).all()),
            f"{self._whose} got a batch whose samples are in different steps; it acts in a step on all samples: "
            "use it in a Sampler with a solver such as EULER, or in GreedySearch in place of RolloverBudget",
        )
        return int(found[0])


def needs_evaluation(reference: Reference, whose: str) -> None:
    """Raise ValueError for a reference that recalls earlier predictions in place of an evaluation."""
    require(
        reference_calls(reference) > 0,
        f"{whose} got the reference {type(reference).__name__}, which recalls earlier predictions and is not "
        f"evaluated; {whose} evaluates its references itself: use Guide(reference, rule)",
    )


def needs_times(whose: str) -> NoReturn:
    """Raise ValueError for guidance that was called without the times of its run."""
    raise BeelineError(
        f"{whose} was used without the times of a run; its weights depend on the steps: use it in a Sampler, or call "
        "guidance_for_flow(guidance, flow, times) first"
    )
