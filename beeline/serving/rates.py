"""How many samples a user may request in a minute."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from beeline.core.errors import BeelineError, require
from beeline.serving.jobs import QueueFullError


class TooManyError(QueueFullError):
    """A user has requested more than the rate allows."""

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = seconds


@dataclass(eq=False)
class Rates:
    """A token bucket for every user: ``most`` samples at once, and as many in every minute.

    >>> rates = Rates(2, clock=lambda: 0.0)
    >>> rates.take("ada", 2)
    """

    most: int  # samples a minute
    clock: Callable[[], float] = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)  # user -> (samples, at a time)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, user: str, rows: int) -> None:
        """Count ``rows`` samples; raises TooManyError where they are too many now."""
        require(
            rows <= self.most,
            f"{rows} samples were requested, and a user may request {self.most} a minute; request fewer",
        )
        with self._lock:
            now = self.clock()
            left, then = self._left.get(user, (float(self.most), now))
            left = min(self.most, left + (now - then) * self.most / 60)
            if left < rows:
                wait = (rows - left) * 60 / self.most
                raise TooManyError(
                    f"{rows} samples were requested, and {int(left)} of {self.most} a minute are left; try again in "
                    f"{wait:.0f} seconds",
                    wait,
                )
            self._left[user] = (left - rows, now)

    @contextlib.contextmanager
    def taken(self, user: str, rows: int) -> Iterator[None]:
        """``take`` for the body of a with statement; what it refuses is not counted."""
        self.take(user, rows)
        try:
            yield
        except BeelineError:
            with self._lock:
                left, then = self._left[user]
                self._left[user] = (left + rows, then)
            raise
