"""The service: models, a queue of drawings, and threads that carry them out."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from beeline.core.errors import BeelineError, nearest, require
from beeline.runs.bundle import Bundle
from beeline.sampling.sampler import Sampler
from beeline.serving.given import opened
from beeline.serving.hosting.hosts import Host
from beeline.serving.hosting.models import hosted
from beeline.serving.hosting.residents import Residents
from beeline.serving.jobs import Job, Queue, State, TooLateError
from beeline.serving.metrics import lines
from beeline.serving.requests import Requested
from beeline.serving.works import CancelledError, Drawing, Model, Result, Task, Work

KEPT = 256  # jobs that have ended, whose results can still be fetched
IDLE = 0.2  # seconds after which threads look whether the service ends
LATE = 0.1  # seconds after which requests are looked up that take too long


@dataclass(frozen=True)
class Limits:
    """Bounds of a service.

    >>> Limits().samples
    256
    """

    batch: int = 64  # most rows of an evaluation; fewer where these would take more than about a second
    samples: int = 256  # of one request
    waiting: int = 4096  # samples in the queue
    runs: int = 4  # that evaluate at the same time
    kept: float = 600.0  # seconds for which results are kept
    resident: int | None = None  # networks that are loaded at the same time; None: all of them


class Executor(Protocol):
    """What does jobs in place of the threads of a service."""

    @property
    def count(self) -> int:
        """How many can be done at the same time."""
        ...

    def do(self, jobs: Sequence[Job]) -> None:
        """Have jobs of one kind done, and return when all have ended."""
        ...

    def watch(self, job: Job) -> None:
        """Ask for the states of the flow of a job."""
        ...

    def batches(self, network: str) -> Counter[int]:
        """The number of batches of a network by the rows that were asked for."""
        ...

    def close(self) -> None:
        """End."""
        ...


class Service:
    """Draws from bundles for many users at once.

    A sample depends on its seed, its condition and its sampler alone: on a CPU it has the same bits alone and in any
    batch, because evaluations have sizes whose bits are equal.
    """

    def __init__(
        self,
        bundles: Mapping[str, Bundle],
        limits: Limits | None = None,
        devices: Sequence[str | torch.device] = (),
        workers: Executor | None = None,
    ):
        """``bundles`` are asked for a bundle again when it was unloaded; every device gets a copy of every network.

        ``workers`` do the requests, so that this process keeps no network.
        """
        require(bool(bundles), "no bundle was given to serve; give the directory of one or more")
        self.limits, self.in_process = limits or Limits(), True
        self.workers, places = workers, max(1, len(devices)) if workers is None else workers.count
        self.residents = Residents(self.limits.resident if workers is None else 1)
        self.models = hosted(bundles, self.residents, self.limits.batch, devices)
        if workers is not None:
            self.residents.close()
        self.queue = Queue(self.limits.waiting)
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.counted: Counter[str] = Counter()  # of requests by state
        self.seconds = 0.0  # of all jobs from request to end
        self._closed, self._lock = threading.Event(), threading.Lock()
        self._begins = threading.Semaphore(places)  # of runs that have not made a step
        self._remembered = 0.0  # when old results were removed
        self._threads = [
            threading.Thread(target=self._work, name=f"run {i}", daemon=True) for i in range(self.limits.runs * places)
        ]
        self._threads.append(threading.Thread(target=self._late, name="late requests", daemon=True))
        for thread in self._threads:
            thread.start()

    def model(self, name: str | None) -> Model:
        """A model by name, or the first one."""
        if name is None:
            return next(iter(self.models.values()))
        found = self.models.get(name)
        if found is None:
            raise BeelineError(f"there is no model {name!r}; {nearest(name, self.models)}")
        return found

    def drawing(
        self, model: str | None, seeds: Sequence[int], condition: Any = None, sampler: Sampler | None = None
    ) -> Drawing:
        """What is to be drawn, checked; ValueError for conditions that the model does not have."""
        found, n = self.model(model), len(seeds)
        self._check_size(n)
        bundle = found.bundle
        return Drawing(
            found.name,
            tuple(seeds),
            condition,
            bundle.condition(opened(bundle.modality, condition), n),
            sampler or bundle.sampler,
            found.amounts(),
        )

    def task(self, model: str | None, rows: int, call: Callable[[Bundle], Result]) -> Task:
        """A call on a model for ``rows`` data, checked."""
        self._check_size(rows)
        return Task(self.model(model).name, rows, call)

    def _check_size(self, rows: int) -> None:
        require(
            1 <= rows <= self.limits.samples,
            f"{rows} samples were requested; a request has 1 to {self.limits.samples}: divide it into several",
        )

    def submit(
        self,
        work: Work,
        key: str = "",
        priority: int = 0,
        timeout: float | None = None,
        request: Requested | None = None,
    ) -> Job:
        """Put a work into the queue; raises QueueFullError where it is full.  Workers need the request, settled."""
        job = Job(work, key, priority, timeout=timeout, request=request)
        self.queue.put(job)
        with self._lock:
            self.jobs[job.id] = job
            self._forget()
        self.counted["requests"] += 1
        return job

    def accept(self, request: Requested, user: str = "") -> Job:
        """Check a request and put it into the queue."""
        request = request.settled()
        work = request.work(self)
        whole = None if self.workers is None else request.model_copy(update={"model": work.model})
        return self.submit(work, user, request.priority, request.timeout, whole)

    def metrics(self) -> Iterator[str]:
        """Counts and times in the text form of Prometheus."""
        return lines(self)

    def job(self, id: str) -> Job:
        """A job by its id."""
        found = self.jobs.get(id)
        require(
            found is not None,
            f"there is no job {id!r}; results are kept for {self.limits.kept:g} seconds: request it again",
        )
        assert found is not None
        return found

    def cancel(self, job: Job) -> None:
        """End a job that waits or runs; its run goes on for others."""
        self.queue.drop(job)
        job.to(State.CANCELLED, error=CancelledError())

    def watch(self, job: Job) -> None:
        """Ask for the states of the flow of a job; those that run in this process have them."""
        if self.workers is not None:
            self.workers.watch(job)

    def batches(self, host: Host) -> Counter[int]:
        """The number of batches of a network by the rows that were asked for."""
        return host.batches if self.workers is None else self.workers.batches(host.names[0])

    def close(self) -> None:
        """Stop: what runs is finished, what waits is cancelled."""
        self._closed.set()
        for job in list(self.jobs.values()):
            if job.state is State.WAITING:
                self.cancel(job)
        for thread in self._threads:
            thread.join()
        self.residents.close()
        if self.workers is not None:
            self.workers.close()

    def _forget(self) -> None:
        """Remove results that are old or too many."""
        now = time.monotonic()
        if len(self.jobs) <= 2 * KEPT and now < self._remembered + 1:
            return
        self._remembered = now
        ended = [job for job in self.jobs.values() if job.ended is not None]
        for k, job in enumerate(ended):
            assert job.ended is not None
            if k < len(ended) - KEPT or now - job.ended > self.limits.kept:
                del self.jobs[job.id]

    def _work(self) -> None:
        while not self._closed.is_set():
            begun = self._turn()  # the next run begins after the first step of this one, with all that came meanwhile
            try:
                jobs = self.queue.take(self.limits.batch, IDLE)
                if jobs and self.workers is not None:
                    begun()
                    self._have_done(jobs, self.workers)
                elif jobs:
                    self._begins_with(jobs[0], begun)
                    self._run(jobs)
            finally:
                begun()

    def _have_done(self, jobs: list[Job], workers: Executor) -> None:
        """Have jobs done by workers."""
        for job in jobs:
            job.to(State.RUNNING)
        workers.do(jobs)
        for job in jobs:
            self._count(job)

    def _count(self, job: Job) -> None:
        """Count a job that has ended."""
        if job.state is State.DONE:
            self.counted["done"] += 1
            self.seconds += time.monotonic() - job.created
        elif job.state is State.FAILED:
            self.counted["failed"] += 1

    def _begins_with(self, job: Job, begun: Callable[[], None]) -> None:
        """Call ``begun`` when the run of a job has made a step, or does not report its steps."""
        if job.work.alone or job.work.rows > self.limits.batch:
            begun()
        else:
            job.listen(lambda: begun() if job.progress > 0 or job.left else None)

    def _turn(self) -> Callable[[], None]:
        """Wait for the turn to begin a run; the function ends it, at its first call."""
        self._begins.acquire()
        ended = threading.Lock()
        return lambda: self._begins.release() if ended.acquire(blocking=False) else None

    def _late(self) -> None:
        """End jobs that take too long; their runs go on for others."""
        while not self._closed.wait(LATE):
            for job in list(self.jobs.values()):
                if job.late:
                    self.queue.drop(job)
                    message = f"it took more than {job.timeout:g} seconds; request fewer samples or steps, or more time"
                    job.to(State.FAILED, error=TooLateError(message))

    def _run(self, jobs: list[Job]) -> None:
        """Draw for several jobs in one run; where it fails, each by itself, so that only one that fails does."""
        first = jobs[0].work
        for job in jobs:
            job.to(State.RUNNING)
        try:
            with self.models[first.model].use() as replica:
                results = first.together([job.work for job in jobs], jobs, replica, self.limits.batch)
        except CancelledError:
            return
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._run([job])
                return
            jobs[0].to(State.FAILED, error=error)
            self._count(jobs[0])
            return
        for job, result in zip(jobs, results, strict=True):
            job.to(State.DONE, result)
            self._count(job)
