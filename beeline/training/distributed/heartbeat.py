"""Heartbeat between processes: names the ranks that died or hang."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

from beeline.core.errors import BeelineError
from beeline.core.protocols.training import Parallel

BEAT = 0.5  # seconds between two heartbeats
_COLLECTIVE_ERROR = re.compile(
    "gloo|nccl|timed out|connection|process group|tcpstore|broken pipe|watchdog", re.IGNORECASE
)


class RankLost(RuntimeError):  # noqa: N818
    """Another process died or hangs; ``ranks`` are the processes that stopped responding."""

    def __init__(self, message: str, ranks: list[int]):
        super().__init__(message)
        self.ranks = ranks


@contextlib.contextmanager
def heartbeat(engine: Parallel) -> Iterator[Callable[[int], None]]:
    """Context manager: sends heartbeats, and turns a failed collective operation into RankLost.

    Yields a function that has to be called with the step number before every microbatch.  A dead process stops sending
    heartbeats; a hanging process sends them, but its count of microbatches stops.
    """
    if engine.world == 1 or not dist.is_initialized():
        yield lambda step: None
        return
    store, done = dist.distributed_c10d._get_default_store(), threading.Event()
    at, count, beats = 0, 0, 0

    def publish() -> None:
        nonlocal beats
        beats += 1  # a counter, because clocks differ between machines
        store.set(f"beeline/{engine.rank}", f"{beats} {at} {count}")

    def beat() -> None:
        while not done.wait(BEAT):
            with contextlib.suppress(Exception):  # the store ends with the process that hosts it
                publish()

    def progress(step: int) -> None:
        nonlocal at, count
        at, count = step, count + 1

    publish()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield progress
    except BeelineError:
        raise
    except RuntimeError as error:
        if not _COLLECTIVE_ERROR.search(str(error)):
            raise
        silent = _silent(store, engine, count)
        names = ", ".join(f"rank {r} ({why})" for r, why in silent.items())
        raise RankLost(
            f"step {at + 1} could not be completed: {names or 'an unknown rank'} stopped responding; see the output of "
            "that process or the system log for the reason; the saved checkpoints are valid: resume on any number of "
            f"processes (error of torch: {str(error).splitlines()[0][:160]})",
            list(silent),
        ) from error
    finally:
        done.set()
        thread.join()


def _silent(store: Any, engine: Parallel, count: int) -> dict[int, str]:
    """The ranks that died or hang, with the reason: two readings, a few heartbeats apart, are compared."""
    others = [r for r in range(engine.world) if r != engine.rank]
    try:
        before = {r: store.get(f"beeline/{r}").decode().split() for r in others}
        time.sleep(4 * BEAT)
        now = {r: store.get(f"beeline/{r}").decode().split() for r in others}
    except Exception:
        return {0: "died; it hosted the store"}  # only the store can fail here
    found: dict[int, str] = {}
    for rank in others:
        beats, step, done = now[rank]
        if beats == before[rank][0]:
            found[rank] = "died"
        elif int(done) < count:
            found[rank] = f"hangs in step {int(step) + 1}"
    return found
