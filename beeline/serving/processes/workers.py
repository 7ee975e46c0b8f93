"""Several processes that do the requests of one service."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from beeline.core.errors import BeelineError, require
from beeline.runs.bundle import Bundle
from beeline.serving.jobs import ENDED, Job, State
from beeline.serving.processes.inside import work
from beeline.serving.processes.messages import Begin, Cancel, JobReport, Message, Watch
from beeline.serving.service import Limits
from beeline.serving.wire.errors import error_of
from beeline.serving.wire.requests import packed
from beeline.serving.wire.results import loaded
from beeline.serving.works import Result

ATTEMPTS = 3  # processes that may end with a request before it fails
POLL_INTERVAL = 0.5  # seconds between two looks whether a process lives
END = 5.0  # seconds in which a process ends by itself
START = 600.0  # seconds in which a process loads its networks


class Process:
    """One process; ``jobs`` are those that it has not ended."""

    def __init__(self, loads: Mapping[str, Callable[[], Bundle]], limits: Limits, threads: int):
        context = multiprocessing.get_context("spawn")  # threads of this process hold locks
        self.link, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, loads, limits, threads), daemon=True)
        self.process.start()
        other.close()
        self.jobs: dict[str, Job] = {}
        self.batches: Mapping[str, Counter[int]] = {}
        self.sizes: Mapping[str, Sequence[int]] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="reads a process", daemon=True)

    def begun(self) -> Process:
        """The process, after it has loaded all; BeelineError where it ended before."""
        try:
            if not self.link.poll(START):
                raise EOFError
            self.sizes = self.link.recv()
        except (EOFError, OSError):
            self.process.terminate()
            raise BeelineError(
                "a process of the service ended before it had loaded its models; see its error, or give fewer --workers"
            ) from None
        self._reader.start()
        return self

    @property
    def lives(self) -> bool:
        """Whether it can be sent requests."""
        return self._reader.is_alive()

    @property
    def rows(self) -> int:
        """The samples that it has to draw."""
        return sum(job.work.rows for job in list(self.jobs.values()))

    def send(self, send: Message) -> None:
        """Send a message; one that has ended gets none."""
        with self._lock:
            try:
                self.link.send(send)
            except OSError:
                return

    def _read(self) -> None:
        try:
            while True:
                self._received(self.link.recv())
        except (EOFError, OSError):
            return

    def _received(self, report: JobReport) -> None:
        if report.batches is not None:
            self.batches = report.batches
        job = self.jobs.get(report.id)
        if job is None:
            return
        if report.state in ENDED:
            del self.jobs[report.id]
            error = None if report.error is None else error_of(report.kind, report.error)
            result = None if report.result is None else Result(*loaded(report.result))
            job.to(report.state, result, error)
        elif report.state is State.RUNNING:
            job.reached(report.progress, job.latest if report.latest is None else torch.from_numpy(report.latest))

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join(END)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._reader.join()
        self.link.close()


class Workers:
    """Processes of this machine, each with all networks; a request of one that ends is done by another."""

    def __init__(self, loads: Mapping[str, Callable[[], Bundle]], limits: Limits, count: int):
        require(count >= 1, f"{count} workers were asked for; give 1 or more")
        inner = replace(limits, waiting=2**31)  # what it gets has waited already
        threads = max(1, torch.get_num_threads() // count)
        self._made = lambda: Process(loads, inner, threads)
        self.count = count
        self._past: dict[str, Counter[int]] = {}
        started = [self._made() for _ in range(count)]  # at the same time
        self.processes = [process.begun() for process in started]
        self._lock = threading.Lock()

    def do(self, jobs: Sequence[Job]) -> None:
        """Have requests done, and return when all have ended."""
        for _ in range(ATTEMPTS):
            process = self._given(jobs)
            for job in jobs:
                process.send(Begin(job.id, packed(job.request)))
            for job in jobs:
                while not job.wait(POLL_INTERVAL) and process.lives:
                    pass
                if process.jobs.pop(job.id, None) is not None:
                    process.send(Cancel(job.id))
            jobs = [job for job in jobs if job.state not in ENDED]
            if not jobs:
                return
        for job in jobs:
            job.to(State.FAILED, error=RuntimeError(f"{ATTEMPTS} processes ended while they had this request"))

    def watch(self, job: Job) -> None:
        """Ask for the states of the flow of a request."""
        for process in self.processes:
            if job.id in process.jobs:
                process.send(Watch(job.id))

    def batches(self, network: str) -> Counter[int]:
        """The number of batches of a network by the rows that were asked for."""
        found = [process.batches.get(network, Counter()) for process in self.processes]
        return sum(found, self._past.get(network, Counter()).copy())

    def close(self) -> None:
        """End all."""
        for process in self.processes:
            process.close()

    def _given(self, jobs: Sequence[Job]) -> Process:
        """The process with the fewest samples, which has these requests now; one that has ended is started again."""
        with self._lock:
            for k, process in enumerate(self.processes):
                if not process.lives:
                    for network, counts in process.batches.items():
                        self._past[network] = self._past.get(network, Counter()) + counts
                    self.processes[k] = self._made().begun()
            process = min(self.processes, key=lambda process: process.rows)
            process.jobs |= {job.id: job for job in jobs}
            return process
