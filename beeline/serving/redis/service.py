"""A service whose requests are done by any of several processes behind one queue in Redis."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save

from beeline.core.errors import require
from beeline.runs.bundle import Bundle
from beeline.sampling.sampler import Sampler
from beeline.serving.jobs import ENDED, Job, State, UnreachableError
from beeline.serving.redis.queue import AGAIN, Found, RedisQueue, Taken
from beeline.serving.requests import Requested
from beeline.serving.service import Limits, Service
from beeline.serving.wire.errors import error_of, kind_of
from beeline.serving.wire.requests import packed, unpacked
from beeline.serving.wire.results import dumped, loaded
from beeline.serving.works import Drawing, Model, Result, Task

REPORT_INTERVAL = 0.1  # seconds between two reports of progress, which renew leases
POLL_INTERVAL = 1.0  # seconds between two looks at jobs whose changes may have been missed
PREFETCH = 2  # batches that a process has at a time

Answer = TypeVar("Answer")


class RedisService:
    """Accepts requests, and does those of a queue: its own may be done by others, and it does those of others.

    A process does the requests for models that it has with the same name and the same weights.  The queue holds
    requests as JSON, and their results as ``dumped`` gives them.
    """

    def __init__(
        self,
        bundles: Mapping[str, Bundle],
        redis: RedisQueue,
        limits: Limits | None = None,
        devices: Sequence[str | torch.device] = (),
    ):
        self.local, self.in_process = Service(bundles, limits, devices), False
        self.redis = redis
        served = {name: (model.bundle, model.host.names[1:]) for name, model in self.models.items()}
        self._topics = {
            name: "+".join([topic_of(name, bundle), *(topic_of(other, served[other][0]) for other in adapters)])
            for name, (bundle, adapters) in served.items()
        }
        self._requested: dict[str, Job] = {}  # jobs of this process's clients that have not ended
        self._running: dict[str, Job] = {}  # jobs that this process does
        self._watched: set[str] = set()  # those of them whose previews are wanted
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()  # those of them that have ended
        self._free = threading.Event()  # jobs may be taken
        self._alone = False  # not before the one that it has has ended
        self._stopping, self._closed = threading.Event(), threading.Event()
        works = {"fetch": self._fetch, "report": self._report, "subscribe": self._subscribe, "poll": self._poll}
        self._threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works.items()]
        for thread in self._threads:
            thread.start()

    @property
    def models(self) -> Mapping[str, Model]:
        """The models by name."""
        return self.local.models

    def model(self, name: str | None) -> Model:
        """A model by name, or the first one."""
        return self.local.model(name)

    def drawing(
        self, model: str | None, seeds: Sequence[int], condition: Any = None, sampler: Sampler | None = None
    ) -> Drawing:
        """What is to be drawn, checked."""
        return self.local.drawing(model, seeds, condition, sampler)

    def task(self, model: str | None, rows: int, call: Callable[[Bundle], Result]) -> Task:
        """A call on a model, checked."""
        return self.local.task(model, rows, call)

    def accept(self, request: Requested, user: str = "") -> Job:
        """Check a request and put it into the queue; raises QueueFullError where it is full."""
        request = request.settled()
        work = request.work(self.local)
        job = Job(work, user, request.priority)
        self._requested[job.id] = job  # before others can end it
        payload = packed(request.model_copy(update={"model": work.model}))
        try:
            with self._connected():
                self.redis.put(self._topics[work.model], job.id, payload, work.rows, user, request.priority)
        except BaseException:
            del self._requested[job.id]
            raise
        return job

    def job(self, id: str) -> Job:
        """A job by its id, of a client of any process."""
        if id in self._requested:
            return self._requested[id]
        with self._connected():
            found = self.redis.found([id])[0]
        require(
            found is not None and found.topic in self._topics.values(),
            f"there is no job {id!r}; results are kept for {self.redis.kept:g} seconds: request it again",
        )
        assert found is not None
        job = self._requested[id] = Job(unpacked(found.payload).work(self.local), id=id)
        self._follow(id, found)
        return job

    def cancel(self, job: Job) -> None:
        """End a job that waits or runs in any process."""
        with self._connected():
            self.redis.cancel(job.id)
        job.to(State.CANCELLED)

    def watch(self, job: Job) -> None:
        """Ask for the states of the flow of a job."""
        with self._connected():
            self.redis.want_previews(job.id)

    def metrics(self) -> Iterator[str]:
        """Those of the jobs that this process has done, and of the queue."""
        yield from self.local.metrics()
        yield "# HELP beeline_queue_jobs jobs of all processes; rows: samples that wait"
        yield "# TYPE beeline_queue_jobs gauge"
        for name, topic in self._topics.items():
            for what, count in sorted(self.redis.counts(topic).items()):
                yield f'beeline_queue_jobs{{model="{name}",state="{what}"}} {count}'

    def close(self) -> None:
        """Stop: what runs here is finished, and what waits is left to others."""
        self._stopping.set()
        self._free.set()
        self._threads[0].join()
        waiting = [id for id, job in self._running.items() if job.state is State.WAITING]
        self.redis.give_back(waiting)
        for id in waiting:
            del self._running[id]
        self.local.close()
        self._closed.set()
        for thread in self._threads:
            thread.join()
        self.redis.close()

    def _fetch(self) -> None:
        """Take jobs while this process has few."""
        while not self._stopping.is_set():
            taken = self._retrying(self._take)
            for one in taken or ():
                self._begin(one)
            if not taken:
                self._free.wait(POLL_INTERVAL)
                self._free.clear()

    def _take(self) -> list[Taken]:
        had = list(self._running.values())
        free = PREFETCH * self.local.limits.batch - sum(job.work.rows for job in had)
        if free <= 0 or (had and self._alone):
            return []
        taken = self.redis.take(list(self._topics.values()), free, not had)
        self._alone = any(one.alone for one in taken)
        return taken

    def _begin(self, taken: Taken) -> None:
        try:
            job = self.local.accept(unpacked(taken.payload))
        except ValueError as error:  # of another version
            self._fail(taken.id, error)
            return
        self._running[taken.id] = job
        job.listen(lambda: self._ended.put(taken.id) if job.state in ENDED else None)
        if job.state in ENDED:  # before it was listened to
            self._ended.put(taken.id)

    def _report(self) -> None:
        """Report the ends of jobs at once, and the progress of others at intervals."""
        due = 0.0
        while not (self._closed.is_set() and self._ended.empty()):
            with contextlib.suppress(queue.Empty):
                self._end(self._ended.get(timeout=REPORT_INTERVAL))
            if time.monotonic() >= due:
                self._renew()
                due = time.monotonic() + REPORT_INTERVAL

    def _end(self, id: str) -> None:
        job = self._running.pop(id, None)
        if job is None:
            return
        if job.result is not None:
            result = dumped(job.result.raw, job.result.facts)
            self._retrying(lambda: self.redis.finish(id, State.DONE, result))
        elif job.state is State.FAILED and job.error is not None:
            self._fail(id, job.error)
        self._free.set()

    def _fail(self, id: str, error: BaseException) -> None:
        found = json.dumps({"kind": kind_of(error), "message": str(error)})
        self._retrying(lambda: self.redis.finish(id, State.FAILED, error=found))

    def _renew(self) -> None:
        running = {id: job for id, job in list(self._running.items()) if job.state not in ENDED}
        reached = {id: (job.progress, self._preview(id, job)) for id, job in running.items()}
        kept = self._retrying(lambda: self.redis.renew(reached))
        if kept is None:
            return
        self._watched = {id for id, wanted in kept.items() if wanted}
        for id in running.keys() - kept.keys():  # cancelled, or of another worker
            self.local.cancel(running[id])

    def _preview(self, id: str, job: Job) -> bytes:
        latest = job.latest
        return b"" if latest is None or id not in self._watched else save({"x": latest.cpu().contiguous()})

    def _subscribe(self) -> None:
        """Follow the jobs that were asked for here."""
        self.redis.listen(self._notified, self._closed)

    def _notified(self, id: str) -> None:
        if not id:
            self._free.set()
        elif id in self._requested:
            self._look_up([id])

    def _poll(self) -> None:
        """Look up what may have been missed."""
        while not self._closed.wait(POLL_INTERVAL):
            self._look_up(list(self._requested))

    def _look_up(self, ids: Sequence[str]) -> None:
        found = self._retrying(lambda: self.redis.found(ids)) if ids else None
        for id, one in zip(ids, found or (), strict=False):
            self._follow(id, one)

    def _follow(self, id: str, found: Found | None) -> None:
        """Bring a job that was asked for here to the state in the queue."""
        job = self._requested.get(id)
        if job is None:
            return
        if found is None:
            job.to(State.FAILED, error=RuntimeError("the queue has lost the job"))
        elif found.state is State.RUNNING:
            job.to(State.RUNNING)
            job.reached(found.progress, load(found.latest)["x"] if found.latest else job.latest)
        elif found.state is State.DONE:
            job.to(State.DONE, Result(*loaded(found.result)))
        elif found.state is State.FAILED:
            job.to(State.FAILED, error=error_of(**json.loads(found.error)))
        elif found.state is State.CANCELLED:
            job.to(State.CANCELLED)
        if job.state in ENDED:
            self._requested.pop(id, None)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except self.redis.unreachable as error:
            raise UnreachableError(
                f"Redis, which holds the queue, does not answer ({error}); try again later"
            ) from None

    def _retrying(self, call: Callable[[], Answer]) -> Answer | None:
        """The answer of Redis, however long it cannot be reached; None at the end of this process."""
        while True:
            try:
                return call()
            except self.redis.unreachable:
                if self._closed.wait(AGAIN):
                    return None


def topic_of(name: str, bundle: Bundle) -> str:
    """What workers that may do the same requests have in common."""
    return f"{name}@{bundle.weights[:16]}"
