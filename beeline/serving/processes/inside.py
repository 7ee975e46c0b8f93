"""A process that does the requests of a service."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from beeline.runs.bundle import Bundle
from beeline.serving.hosting.places import Places
from beeline.serving.jobs import ENDED, Job, State
from beeline.serving.processes.messages import Told
from beeline.serving.redis.service import unpacked
from beeline.serving.redis.wire import dumped
from beeline.serving.service import Limits, Service

OFTEN = 0.05  # seconds between two messages on the progress of a request


def work(link: Connection, loads: Mapping[str, Callable[[], Bundle]], limits: Limits, threads: int) -> None:
    """Do requests until the link ends; says the sizes of batches as soon as all is loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends the process
    torch.set_num_threads(threads)
    service = Service(Places(loads), limits)
    done = Done(service, link)
    done.say({model.host.names[0]: model.host.sizes for model in service.models.values()})
    try:
        while True:
            link.recv()(done)
    except (EOFError, OSError):
        service.close()


@dataclass(eq=False)
class Done:
    """The requests of a process, and what it says of them."""

    service: Service
    link: Connection
    jobs: dict[str, Job] = field(default_factory=dict)
    watched: set[str] = field(default_factory=set)
    _said: dict[str, float] = field(default_factory=dict)  # when something was said of a request
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, id: str, payload: bytes) -> None:
        """Do a request."""
        try:
            job = self.service.accept(unpacked(payload))
        except ValueError as error:
            self.say(Told(id, State.FAILED, error=str(error), bad=True))
            return
        self.jobs[id] = job
        job.listen(lambda: self.tell(id, job))
        self.tell(id, job)

    def cancel(self, id: str) -> None:
        """End a request, if it has not ended."""
        job = self.jobs.pop(id, None)
        if job is not None:
            self.service.cancel(job)

    def watch(self, id: str) -> None:
        """Tell the states of the flow of a request."""
        self.watched.add(id)

    def tell(self, id: str, job: Job) -> None:
        """Say what a request does, its end once."""
        with self._lock:
            now = time.monotonic()
            if id not in self.jobs or (job.state not in ENDED and now - self._said.get(id, 0.0) < OFTEN):
                return
            self._said[id] = now
            if job.state not in ENDED:
                latest = job.latest.float().cpu().numpy() if id in self.watched and job.latest is not None else None
                self.say(Told(id, job.state, job.progress, latest))
                return
            del self.jobs[id], self._said[id]
            self.watched.discard(id)
            self.say(self._end(id, job))

    def _end(self, id: str, job: Job) -> Told:
        batches = {model.host.names[0]: model.host.batches for model in self.service.models.values()}
        result = None if job.result is None else dumped(job.result.raw, job.result.facts)
        error = None if job.error is None else str(job.error)
        bad = isinstance(job.error, ValueError)
        return Told(id, job.state, job.progress, result=result, error=error, bad=bad, batches=batches)

    def say(self, message: Any) -> None:
        """Send a message; the service may have ended."""
        with self._lock:
            try:
                self.link.send(message)
            except OSError:
                return
