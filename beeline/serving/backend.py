"""What the HTTP interface needs of a service: this process, or others behind a queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor

from beeline.serving.jobs import State
from beeline.serving.requests import Models, Requested
from beeline.serving.works import Model, Result


class Handle(Protocol):
    """A request on its way."""

    @property
    def id(self) -> str:
        """By which it is found again."""
        ...

    @property
    def model(self) -> str:
        """The name of its model."""
        ...

    @property
    def state(self) -> State:
        """What it does."""
        ...

    @property
    def progress(self) -> float:
        """The time of the flow that is reached, 0 to 1."""
        ...

    @property
    def latest(self) -> Tensor | None:
        """The state of the flow [n,*S], while it runs."""
        ...

    @property
    def result(self) -> Result | None:
        """What was found; None before the end and after a failure."""
        ...

    @property
    def error(self) -> BaseException | None:
        """Why it failed: a ValueError where the request was at fault."""
        ...

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function after every change, from any thread."""
        ...


class Backend(Models, Protocol):
    """Accepts requests, and knows what became of them."""

    @property
    def models(self) -> Mapping[str, Model]:
        """Every model by its name."""
        ...

    @property
    def in_process(self) -> bool:
        """Whether it accepts in this process, without waiting for others."""
        ...

    def accept(self, request: Requested, user: str) -> Handle:
        """Check a request and put it into the queue.

        Raises BeelineError for what the model cannot do, and QueueFullError where the queue is full.
        """
        ...

    def job(self, id: str) -> Handle:
        """A request by its id; BeelineError for one that is not known."""
        ...

    def cancel(self, job: Any) -> None:
        """End a request that waits or runs."""
        ...

    def watch(self, job: Any) -> None:
        """Ask for the states of the flow of a request, which may be far away."""
        ...

    def metrics(self) -> Iterator[str]:
        """Lines in the text form of Prometheus."""
        ...
