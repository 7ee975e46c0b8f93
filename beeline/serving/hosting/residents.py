"""Networks that are loaded: those that were used last."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator

from beeline.serving.hosting.hosts import Host, Replica


class Residents:
    """Keeps at most ``most`` networks loaded: the one that was not used for the longest time gives way."""

    def __init__(self, most: int | None = None):
        self.most = most
        self._runs: OrderedDict[Host, int] = OrderedDict()  # of the networks that are loaded, the oldest first
        self._changed = threading.Condition()

    @property
    def loaded(self) -> int:
        """How many are loaded."""
        return len(self._runs)

    @contextlib.contextmanager
    def use(self, host: Host) -> Iterator[Replica]:
        """A replica of a network; waits while all places are taken by others that run."""
        with self._changed:
            self._changed.wait_for(lambda: host in self._runs or self._place())
            self._runs[host] = self._runs.pop(host, 0) + 1
        try:
            with host.use() as replica:
                yield replica
        finally:
            with self._changed:
                self._runs[host] -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Unload all."""
        with self._changed:
            for host in self._runs:
                host.unload()
            self._runs.clear()

    def _place(self) -> bool:
        """Whether there is a place, after one that nobody uses has given way."""
        if self.most is None or len(self._runs) < self.most:
            return True
        idle = next((host for host, runs in self._runs.items() if not runs), None)
        if idle is None:
            return False
        idle.unload()
        del self._runs[idle]
        return True
