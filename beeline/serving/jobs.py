"""Requests that wait, run, end or are cancelled."""

from __future__ import annotations

import enum
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from beeline.core.errors import BeelineError
from beeline.serving.works import Result, Work


class BusyError(BeelineError):
    """A request cannot be taken now; a client may try again after ``seconds``."""

    seconds = 1.0
    status = 503  # of HTTP


class QueueFullError(BusyError):
    """There is no place for a request now."""

    status = 429


class UnreachableError(BusyError):
    """The queue is in another process, which does not answer."""


class TooLateError(BeelineError):
    """A request took longer than it may."""


class State(enum.Enum):
    """What a job does."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(eq=False)
class Job:
    """A work on its way."""

    work: Work
    key: str = ""  # of the user; users take turns
    priority: int = 0  # higher ones first
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = State.WAITING
    progress: float = 0.0  # the time of the flow that is reached
    latest: Tensor | None = None  # the state of the flow, [n,*S]
    result: Result | None = None
    error: BaseException | None = None
    timeout: float | None = None  # seconds from its creation after which it fails
    request: Any = None  # for others that do it in place of this process
    created: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float | None = None
    changed: threading.Condition = field(default_factory=threading.Condition, repr=False)
    listeners: list[Callable[[], None]] = field(default_factory=list, repr=False)  # called after every change

    def to(self, state: State, result: Result | None = None, error: BaseException | None = None) -> None:
        """Change the state of a job that has not ended."""
        with self.changed:
            if self.state in ENDED:
                return
            self.state, self.result, self.error = state, result, error
            now = time.monotonic()
            if state is State.RUNNING:
                self.started = now
            if state in ENDED:
                self.ended, self.latest = now, None
            self._notify()

    @property
    def model(self) -> str:
        """The name of its model."""
        return self.work.model

    @property
    def late(self) -> bool:
        """Whether it has not ended in its time."""
        return self.timeout is not None and self.state not in ENDED and time.monotonic() - self.created > self.timeout

    @property
    def left(self) -> bool:
        """Whether nobody waits any more."""
        return self.state in ENDED

    def reached(self, t: float, x: Tensor | None) -> None:
        """Note the state of the flow."""
        with self.changed:
            self.progress, self.latest = t, x
            self._notify()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function after every change, from the thread that makes it."""
        with self.changed:
            self.listeners.append(listener)

    def _notify(self) -> None:
        self.changed.notify_all()
        for listener in self.listeners:
            listener()

    def wait(self, seconds: float | None = None, until: Callable[[Job], bool] = lambda job: job.state in ENDED) -> bool:
        """Wait until something holds; false if the time has passed."""
        with self.changed:
            return self.changed.wait_for(lambda: until(self), seconds)


class Queue:
    """Jobs that wait: by priority, and within one priority one job of every user in turn."""

    def __init__(self, most: int):
        self.most = most  # samples that may wait
        self.waiting = 0  # samples
        self.changed = threading.Condition()
        self._jobs: dict[int, OrderedDict[str, deque[Job]]] = {}

    def put(self, job: Job) -> None:
        """Add a job; raises QueueFullError where too many samples wait already."""
        with self.changed:
            n = job.work.rows
            if self.waiting + n > self.most:
                raise QueueFullError(
                    f"{self.waiting} samples wait, and {n} more were requested; the queue takes {self.most}: try again "
                    "later, or request fewer samples"
                )
            self._jobs.setdefault(job.priority, OrderedDict()).setdefault(job.key, deque()).append(job)
            self.waiting += n
            self.changed.notify()

    def take(self, most: int, seconds: float) -> list[Job]:
        """The next job and others that can share its run, with up to ``most`` samples in all; [] after a time."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.waiting > 0, seconds):
                return []
            first = self._pop(lambda job: True)
            if first is None:
                return []
            chosen, rows, kind = [first], first.work.rows, first.work.kind

            def fits(job: Job) -> bool:
                return job.work.kind == kind and rows + job.work.rows <= most

            while (more := self._pop(fits)) is not None:
                chosen.append(more)
                rows += more.work.rows
            return chosen

    def drop(self, job: Job) -> None:
        """Remove a job that waits, if it does."""
        with self.changed:
            self._pop(lambda other: other is job)

    def _pop(self, fits: Callable[[Job], bool]) -> Job | None:
        for priority in sorted(self._jobs, reverse=True):
            users = self._jobs[priority]
            for key, jobs in list(users.items()):
                found = next((job for job in jobs if fits(job)), None)
                if found is None:
                    continue
                jobs.remove(found)
                users.move_to_end(key)  # the next turn is that of another user
                if not jobs:
                    del users[key]
                if not users:
                    del self._jobs[priority]
                self.waiting -= found.work.rows
                return found
        return None
