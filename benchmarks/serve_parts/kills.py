"""Kills of the workers behind a queue in Redis."""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections import Counter
from typing import Any

import numpy as np

from beeline.runs.bundle import Bundle, load
from beeline.serving.jobs import ENDED, State
from beeline.serving.redis.queue import RedisQueue
from beeline.serving.redis.service import RedisService, topic_of
from beeline.serving.requests import SampleRequest, SamplerRequest
from beeline.serving.service import Service
from beeline.serving.wire.requests import packed
from beeline.serving.wire.results import loaded
from benchmarks.serve_parts.redis_server import some

WORKERS = 2
LEASE = 1.0  # seconds
WAITING = 200  # samples that are kept in the queue, more than the workers take at once
CLASSES = 4  # of the labels
STEPS = 30  # most steps of a job
COMPARED = 50  # answers that are compared
PATIENCE = 120.0  # seconds after the last kill
LOG = "answered"  # list of the ids of jobs that a worker has answered


class Logged(RedisQueue):
    """Notes every answer that counts."""

    def finish(self, id: str, state: State, result: bytes = b"", error: str = "") -> bool:
        first = super().finish(id, state, result, error)
        if first:
            self.client.rpush(LOG, id)
        return first


def kills(given: argparse.Namespace) -> dict[str, Any]:
    """So many SIGKILLs at random times of workers that have jobs; what became of every job that was accepted."""
    bundle, times = load(given.demo / "teacher"), random.Random(given.seed)
    topic = topic_of("digits", bundle)
    with some() as (name, url), _Workers(bundle, url) as workers:
        queue, asked = RedisQueue(url, lease=LEASE), dict[str, SampleRequest]()
        for _ in range(given.kills):
            end = time.monotonic() + times.uniform(0.1, 1.5)
            while time.monotonic() < end:
                fill(queue, topic, asked)
                time.sleep(0.01)
            workers.kill(times.randrange(WORKERS))
            workers.start()
        states = finished(queue, list(asked))
        answered = Counter(id.decode() for id in queue.client.lrange(LOG, 0, -1))
        counts = queue.counts(topic)
        equal = compared(bundle, queue, asked, times)
    return {
        "redis": name,
        "kills": given.kills,
        "accepted": len(asked),
        "states": dict(Counter(state.value for state in states.values())),
        "lost": sum(state is not State.DONE for state in states.values()),
        "answered_twice": sum(count > 1 for count in answered.values()),
        "answers_counted_by_redis": counts["done"],
        "taken_up_after_a_kill": counts.get("lost", 0),
        "compared_with_the_bundle_alone": len(equal),
        "equal": sum(equal),
    }


def fill(queue: RedisQueue, topic: str, asked: dict[str, SampleRequest]) -> None:
    """Keep jobs waiting."""
    while queue.counts(topic).get("rows", 0) < WAITING:
        k = len(asked)
        request = SampleRequest(
            model="digits", seed=k, condition={"label": k % CLASSES}, sampler=SamplerRequest(steps=1 + k % STEPS)
        )
        queue.put(topic, str(k), packed(request), 1)
        asked[str(k)] = request


def finished(queue: RedisQueue, ids: list[str]) -> dict[str, State]:
    """The states of all jobs, when they have ended or the patience has."""
    end = time.monotonic() + PATIENCE
    while True:
        found = queue.found(ids)
        states = {id: State.FAILED if one is None else one.state for id, one in zip(ids, found, strict=True)}
        if all(state in ENDED for state in states.values()) or time.monotonic() > end:
            return states
        time.sleep(0.1)


def compared(bundle: Bundle, queue: RedisQueue, asked: dict[str, SampleRequest], times: random.Random) -> list[bool]:
    """Whether answers are those of a service that does nothing else."""
    alone, equal = Service({"digits": bundle}), []
    for id in times.sample(sorted(asked), min(COMPARED, len(asked))):
        job = alone.accept(asked[id])
        job.wait(PATIENCE)
        found = queue.found([id])[0]
        assert job.result is not None and found is not None
        equal.append(bool(np.array_equal(loaded(found.result)[0].pixels, job.result.raw.pixels)))
    alone.close()
    return equal


class _Workers:
    """Forked processes that do the jobs of a queue."""

    def __init__(self, bundle: Bundle, url: str):
        self.bundle, self.url = bundle, url
        self.numbers: list[int] = []

    def __enter__(self) -> _Workers:
        for _ in range(WORKERS):
            self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        while self.numbers:
            self.kill(0)

    def start(self) -> None:
        made = os.fork()
        if made == 0:
            try:
                RedisService({"digits": self.bundle}, Logged(self.url, lease=LEASE))
                signal.pause()
            finally:
                os._exit(1)
        self.numbers.append(made)

    def kill(self, index: int) -> None:
        number = self.numbers.pop(index)
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
