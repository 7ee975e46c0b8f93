"""Watching the other processes: who stopped answering, by rank."""

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

BEAT = 0.5  # seconds between two signs of life
_EXCHANGE = re.compile("gloo|nccl|timed out|connection|process group|tcpstore|broken pipe|watchdog", re.IGNORECASE)


class RankLost(RuntimeError):  # noqa: N818 - what happened, as it is said
    """Another process died or hangs; ``ranks`` are the silent ones."""

    def __init__(self, message: str, ranks: list[int]):
        super().__init__(message)
        self.ranks = ranks


@contextlib.contextmanager
def heartbeat(engine: Parallel) -> Iterator[Callable[[int], None]]:
    """Signs of life of this process for the others; a failed exchange inside becomes RankLost with the rank's name.

    Gives a function that is called with the step before every microbatch.  A dead process stops beating, a hanging one
    stops counting.
    """
    if engine.world == 1 or not dist.is_initialized():
        yield lambda step: None
        return
    store, done = dist.distributed_c10d._get_default_store(), threading.Event()
    at, count, beats = 0, 0, 0

    def say() -> None:
        nonlocal beats
        beats += 1  # a count, because clocks of machines differ and may be set
        store.set(f"beeline/{engine.rank}", f"{beats} {at} {count}")

    def beat() -> None:
        while not done.wait(BEAT):
            with contextlib.suppress(Exception):  # the store goes with the process that holds it
                say()

    def tell(step: int) -> None:
        nonlocal at, count
        at, count = step, count + 1

    say()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield tell
    except BeelineError:
        raise
    except RuntimeError as error:
        if not _EXCHANGE.search(str(error)):
            raise
        silent = _silent(store, engine, count)
        names = ", ".join(f"rank {r} ({why})" for r, why in silent.items())
        raise RankLost(
            f"step {at + 1} could not be finished together: {names or 'a rank that cannot be told apart'} stopped "
            "answering; its own message or the system log says why; all that was saved is whole: resume, on any "
            f"number of processes (from torch: {str(error).splitlines()[0][:160]})",
            list(silent),
        ) from error
    finally:
        done.set()
        thread.join()


def _silent(store: Any, engine: Parallel, count: int) -> dict[int, str]:
    """The ranks that are dead or behind: two looks, between which a living process beats several times."""
    others = [r for r in range(engine.world) if r != engine.rank]
    try:
        before = {r: store.get(f"beeline/{r}").decode().split() for r in others}
        time.sleep(4 * BEAT)
        now = {r: store.get(f"beeline/{r}").decode().split() for r in others}
    except Exception:
        return {0: "died; it held the meeting point"}  # only the store itself can fail here
    found: dict[int, str] = {}
    for rank in others:
        beats, step, told = now[rank]
        if beats == before[rank][0]:
            found[rank] = "died"
        elif int(told) < count:
            found[rank] = f"hangs in step {int(step) + 1}"
    return found
