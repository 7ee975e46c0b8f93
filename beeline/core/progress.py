"""The progress of a training, for objectives that change during it, and the random key of its current step."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from beeline.core.rng import Rng

_done: contextvars.ContextVar[float] = contextvars.ContextVar("beeline_progress", default=1.0)
_step: contextvars.ContextVar[Rng | None] = contextvars.ContextVar("beeline_step", default=None)


def progress() -> float:
    """The share of the steps of the running training that are done, 0 to 1; 1.0 outside a training.

    Held-out losses are therefore those of the objective at its end.  An objective that depends on it declares
    ``ObjectiveSpec(evolves=True)``, because a run that is extended by more steps then differs from a longer one.

    >>> progress()
    1.0
    """
    return _done.get()


def common(rng: Rng) -> Rng:
    """The key of the current training step, the same in all its microbatches and processes; ``rng`` outside a training.

    It is for numbers that decide how often a network is evaluated: processes that share a sharded network have to
    evaluate it equally often.

    >>> with at_progress(0.25, Rng(7)):
    ...     common(Rng(0)) == common(Rng(1)) == Rng(7)
    True
    """
    found = _step.get()
    return rng if found is None else found


@contextlib.contextmanager
def at_progress(share: float, step: Rng | None = None) -> Iterator[None]:
    """Context manager: ``progress()`` returns ``share``, and ``common`` the key ``step`` where one is given.

    >>> with at_progress(0.25):
    ...     progress()
    0.25
    """
    done, key = _done.set(share), _step.set(step)
    try:
        yield
    finally:
        _step.reset(key)
        _done.reset(done)
