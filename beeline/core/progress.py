"""The progress of a training, for objectives that change during it: warm-ups and annealing."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_done: contextvars.ContextVar[float] = contextvars.ContextVar("beeline_progress", default=1.0)


def progress() -> float:
    """The share of the steps of the running training that are done, 0 to 1; 1.0 outside a training.

    Held-out losses are therefore those of the objective at its end.  An objective that depends on it declares
    ``ObjectiveSpec(evolves=True)``, because a run that is extended by more steps then differs from a longer one.

    >>> progress()
    1.0
    """
    return _done.get()


@contextlib.contextmanager
def at_progress(share: float) -> Iterator[None]:
    """Context manager: ``progress()`` returns ``share``.

    >>> with at_progress(0.25):
    ...     progress()
    0.25
    """
    token = _done.set(share)
    try:
        yield
    finally:
        _done.reset(token)
