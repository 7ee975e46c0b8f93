"""A process that does the requests of a service."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from beeline.runs.bundle import Bundle
from beeline.serving.hosting.places import Places
from beeline.serving.jobs import ENDED, Job, State
from beeline.serving.processes.messages import JobReport
from beeline.serving.service import Limits, Service
from beeline.serving.wire.errors import kind_of
from beeline.serving.wire.requests import unpacked
from beeline.serving.wire.results import dumped

OFTEN = 0.05  # seconds between two reports of the progress of a request


def work(link: Connection, loads: Mapping[str, Callable[[], Bundle]], limits: Limits, threads: int) -> None:
    """Do requests until the link ends; sends the sizes of batches as soon as all is loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends the process
    torch.set_num_threads(threads)
    service = Service(Places(loads), limits)
    jobs = WorkerJobs(service, link)
    jobs.send({model.host.names[0]: model.host.sizes for model in service.models.values()})
    try:
        while True:
            link.recv()(jobs)
    except (EOFError, OSError):
        service.close()


@dataclass(eq=False)
class WorkerJobs:
    """The requests of a process, of which it sends reports."""

    service: Service
    link: Connection
    jobs: dict[str, Job] = field(default_factory=dict)
    watched: set[str] = field(default_factory=set)
    _sent: dict[str, float] = field(default_factory=dict)  # when a report of a request was sent
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, id: str, payload: bytes) -> None:
        """Do a request."""
        try:
            job = self.service.accept(unpacked(payload))
        except ValueError as error:
            self.send(JobReport(id, State.FAILED, error=str(error), kind=kind_of(error)))
            return
        self.jobs[id] = job
        job.listen(lambda: self.report(id, job))
        self.report(id, job)

    def cancel(self, id: str) -> None:
        """End a request, if it has not ended."""
        job = self.jobs.pop(id, None)
        if job is not None:
            self.service.cancel(job)

    def watch(self, id: str) -> None:
        """Report the states of the flow of a request too."""
        self.watched.add(id)

    def report(self, id: str, job: Job) -> None:
        """Send what a request does, its end once."""
        with self._lock:
            now = time.monotonic()
            if id not in self.jobs or (job.state not in ENDED and now - self._sent.get(id, 0.0) < OFTEN):
                return
            self._sent[id] = now
            if job.state not in ENDED:
                latest = job.latest.float().cpu().numpy() if id in self.watched and job.latest is not None else None
                self.send(JobReport(id, job.state, job.progress, latest))
                return
            del self.jobs[id], self._sent[id]
            self.watched.discard(id)
            self.send(self._end(id, job))

    def _end(self, id: str, job: Job) -> JobReport:
        batches = {model.host.names[0]: model.host.batches for model in self.service.models.values()}
        result = None if job.result is None else dumped(job.result.raw, job.result.facts)
        made = JobReport(id, job.state, job.progress, result=result, batches=batches)
        return made if job.error is None else replace(made, error=str(job.error), kind=kind_of(job.error))

    def send(self, message: Any) -> None:
        """Send a message; the service may have ended."""
        with self._lock:
            try:
                self.link.send(message)
            except OSError:
                return
