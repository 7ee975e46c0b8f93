"""What a service and its processes tell each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from beeline.serving.jobs import State


class Inside(Protocol):
    """A process, as far as messages to it know it."""

    def begin(self, id: str, payload: bytes) -> None:
        """Do a request."""
        ...

    def cancel(self, id: str) -> None:
        """End a request."""
        ...

    def watch(self, id: str) -> None:
        """Tell the states of the flow of a request."""
        ...


class Order(Protocol):
    """A message to a process."""

    def __call__(self, inside: Inside) -> None: ...


@dataclass(frozen=True)
class Begin:
    """Do a request, which is JSON."""

    id: str
    payload: bytes

    def __call__(self, inside: Inside) -> None:
        inside.begin(self.id, self.payload)


@dataclass(frozen=True)
class Cancel:
    """End a request."""

    id: str

    def __call__(self, inside: Inside) -> None:
        inside.cancel(self.id)


@dataclass(frozen=True)
class Watch:
    """Tell the states of the flow of a request."""

    id: str

    def __call__(self, inside: Inside) -> None:
        inside.watch(self.id)


@dataclass(frozen=True)
class Told:
    """What a process says of a request."""

    id: str
    state: State
    progress: float = 0.0
    latest: Any = None  # an array [n,*S]
    result: bytes | None = None
    error: str | None = None
    bad: bool = False  # whether the request was at fault
    batches: Mapping[str, Counter[int]] | None = None  # of evaluations by network, at the end of a request
