"""A queue of jobs in Redis, of which every one is done by one of any number of workers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beeline.core.errors import BeelineError, extra, require
from beeline.serving.jobs import QueueFullError, State
from beeline.serving.redis import scripts
from beeline.serving.redis.scripts import CHANNEL, PREFIX

SHARED = 5  # workers that may be lost with a job before it is given to such that have no other
ALONE = 3  # of these that may be lost before it fails
AGAIN = 0.5  # seconds between attempts to reach Redis


@dataclass(frozen=True)
class Taken:
    """A job that a worker has."""

    id: str
    payload: bytes
    alone: bool = False  # workers were lost with it: take no other until it has ended


@dataclass(frozen=True)
class Found:
    """What is known of a job."""

    topic: str
    payload: bytes
    state: State
    progress: float
    result: bytes
    error: str
    latest: bytes  # the state of the flow, if previews are wanted


class RedisQueue:
    """Jobs of several servers.

    A job is kept by Redis from the moment when ``put`` returns.  A worker that takes it has a lease, which it renews;
    after the loss of the worker the lease ends, and the next ``take`` of any worker gives the job to that one.  The
    first end of a job counts and is kept, so that a worker which was thought to be lost answers nothing twice.

    url    as ``redis://HOST:PORT/NUMBER``
    most   samples that may wait
    lease  seconds, more than a worker that lives can be silent
    kept   seconds for which results are kept
    """

    def __init__(self, url: str, most: int = 4096, lease: float = 10.0, kept: float = 600.0):
        redis: Any = extra("redis", "redis")
        require(lease > 0, f"a lease of {lease} seconds was given; give more than 0")
        self.most, self.lease, self.kept = most, lease, kept
        self.worker = secrets.token_hex(8)
        # errors where Redis cannot be reached
        self.unreachable = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
        try:
            self.client = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=10)
            self.client.ping()
        except (redis.exceptions.RedisError, ValueError) as error:
            raise BeelineError(
                f"--queue {url} was given, and no Redis answers there ({error}); start one, or give redis://HOST:PORT/NUMBER"
            ) from None
        self.client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 1))  # of connections that have ended
        names = ("PUT", "TAKE", "RENEW", "FINISH", "GIVE_BACK")
        self._put, self._take, self._renew, self._finish, self._back = (
            self.client.register_script(vars(scripts)[name]) for name in names
        )

    def put(self, topic: str, id: str, payload: bytes, rows: int, user: str = "", priority: int = 0) -> None:
        """Add a job of ``rows`` samples; raises QueueFullError where too many samples wait already."""
        found = self._put(args=[id, topic, payload, user, rows, priority, self.most])
        if found < 0:
            raise QueueFullError(
                f"{-found - 1} samples wait, and {rows} more were requested; the queue takes {self.most}: try again "
                "later, or request fewer samples"
            )

    def take(self, topics: Sequence[str], rows: int, free: bool = True) -> list[Taken]:
        """The next jobs of some topics, with up to ``rows`` samples in all or one job of more; [] where none waits.

        ``free``: this worker has no jobs, so that it may have one with which others were lost.
        """
        found = self._take(args=[self.worker, _ms(self.lease), rows, SHARED, ALONE, int(free), _ms(self.kept), *topics])
        rows_of = zip(found[::3], found[1::3], found[2::3], strict=True)
        return [Taken(id.decode(), payload, alone == b"1") for id, payload, alone in rows_of]

    def renew(self, reached: Mapping[str, tuple[float, bytes]]) -> dict[str, bool]:
        """Keep jobs that this worker has, and report their progress and, if it is not empty, the state of the flow.

        The ids of those that it still has, with whether previews are wanted; the others were cancelled, or are those of
        another worker now.
        """
        parts = [part for id, (progress, latest) in reached.items() for part in (id, f"{progress:.4f}", latest)]
        found = self._renew(args=[self.worker, _ms(self.lease), *parts]) if reached else []
        return {id.decode(): wanted == b"1" for id, wanted in zip(found[::2], found[1::2], strict=True)}

    def finish(self, id: str, state: State, result: bytes = b"", error: str = "") -> bool:
        """End a job; false if it has ended before."""
        return bool(self._finish(args=[id, state.value, result, error, _ms(self.kept)]))

    def cancel(self, id: str) -> bool:
        """End a job that waits or runs; false if it has ended before."""
        return self.finish(id, State.CANCELLED)

    def give_back(self, ids: Sequence[str]) -> None:
        """Let others do jobs that this worker has."""
        if ids:
            self._back(args=[self.worker, *ids])

    def want_previews(self, id: str) -> None:
        """Ask the worker of a job to report the state of the flow."""
        self.client.hset(f"{PREFIX}job:{id}", "previews", 1)

    def found(self, ids: Sequence[str]) -> list[Found | None]:
        """What is known of jobs; None for those that were never there, or whose results are no longer kept."""
        pipe = self.client.pipeline(transaction=False)
        for id in ids:
            pipe.hmget(f"{PREFIX}job:{id}", "topic", "payload", "state", "progress", "result", "error", "latest")
        return [_found(row) for row in pipe.execute()]

    def counts(self, topic: str) -> dict[str, int]:
        """Numbers of jobs of a topic: put, done, failed, cancelled; ``lost`` leases, and ``rows`` that wait."""
        return {
            name.decode(): int(float(value)) for name, value in self.client.hgetall(f"{PREFIX}topic:{topic}").items()
        }

    def listen(self, changed: Callable[[str], None], closed: threading.Event) -> None:
        """Call a function with the id of every job that changes, and with "" where jobs may be taken, until ``closed``.

        Changes while Redis cannot be reached are missed.
        """
        while not closed.is_set():
            messages = self.client.pubsub(ignore_subscribe_messages=True)
            try:
                messages.subscribe(CHANNEL)
                while not closed.is_set():
                    message = messages.get_message(timeout=0.2)
                    if message is not None:
                        changed(message["data"].decode())
            except self.unreachable:
                time.sleep(AGAIN)
            finally:
                messages.close()

    def close(self) -> None:
        """End the connections."""
        self.client.close()


def _found(row: Sequence[bytes | None]) -> Found | None:
    if row[0] is None:
        return None
    topic, payload, state, progress, result, error, latest = (part or b"" for part in row)
    return Found(topic.decode(), payload, State(state.decode()), float(progress), result, error.decode(), latest)


def _ms(seconds: float) -> int:
    return int(1000 * seconds)
