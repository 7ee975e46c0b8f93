"""The messages between a service and its processes."""

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
        """Report the states of the flow of a request too."""
        ...


class Message(Protocol):
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
    """Report the states of the flow of a request too."""

    id: str

    def __call__(self, inside: Inside) -> None:
        inside.watch(self.id)


@dataclass(frozen=True)
class JobReport:
    """What a request does in a process."""

    id: str
    state: State
    progress: float = 0.0
    latest: Any = None  # an array [n,*S]
    result: bytes | None = None
    error: str | None = None
    kind: str = ""  # of the error
    batches: Mapping[str, Counter[int]] | None = None  # of evaluations by network, at the end of a request
