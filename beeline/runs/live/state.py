"""What the log of a run has shown so far: losses, rate and remaining time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from beeline.evaluation.heldout import HeldOut
from beeline.training.callbacks import Previews


class Curve:
    """A curve of bounded length: where it grows too long, neighbours are replaced by their mean.

    >>> curve = Curve(most=4)
    >>> for step in range(8):
    ...     curve.add(step, float(step))
    >>> curve.points
    [(1, 0.5), (3, 2.5), (5, 4.5), (7, 6.5)]
    """

    def __init__(self, most: int = 400):
        self.most, self.each = most, 1
        self._means: list[tuple[int, float]] = []
        self._open: list[float] = []
        self._step = 0

    def add(self, step: int, value: float) -> None:
        self._open.append(value)
        self._step = step
        if len(self._open) < self.each:
            return
        self._means.append((step, sum(self._open) / len(self._open)))
        self._open = []
        if len(self._means) > self.most:
            self.each *= 2
            pairs = zip(self._means[::2], self._means[1::2], strict=False)
            left = self._means[len(self._means) // 2 * 2 :]
            self._means = [(step, (a + b) / 2) for (_, a), (step, b) in pairs]
            self._open = [value for _, value in left] * (self.each // 2)

    @property
    def points(self) -> list[tuple[int, float]]:
        """(step, mean loss up to there), oldest first."""
        rest = [(self._step, sum(self._open) / len(self._open))] if self._open else []
        return self._means + rest


@dataclass
class State:
    """The state of a training according to its log."""

    steps: int
    clock: Callable[[], float] = time.monotonic
    step: int = 0
    curve: Curve = field(default_factory=Curve)
    heldout: list[tuple[int, float]] = field(default_factory=list)
    by_time: Mapping[str, Any] = field(default_factory=dict)  # the last held-out loss, with its bins and baselines
    previews: Mapping[str, str] = field(default_factory=dict)  # kind -> file in samples/
    previewed: int = 0  # the step of the previews
    notes: list[str] = field(default_factory=list)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    _times: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=200))

    def record(self, entry: Mapping[str, Any]) -> None:
        """Take in one entry of the log."""
        if "loss" not in entry:
            self.steps = int(entry.get("steps", self.steps))  # a run that early stopping has shortened
            self.notes.append(f"step {entry.get('step', 0)}: {entry.get('note', '')}")
            return
        self.step = int(entry["step"])
        self._rates.append(float(entry["samples_per_second"]))
        self._times.append((self.clock(), self.step))
        self._learn(entry)

    def earlier(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take in the entries that a resumed run logged before."""
        for entry in entries:
            self._learn(entry)

    def _learn(self, entry: Mapping[str, Any]) -> None:
        step, loss = int(entry["step"]), float(entry["loss"])
        self._recent.append(loss)
        self.curve.add(step, loss)
        found = entry.get(HeldOut.name)
        if found:
            self.by_time = found.get("ema") or found["raw"]
            self.heldout.append((step, float(self.by_time["value"])))
        if entry.get(Previews.name):
            self.previews, self.previewed = entry[Previews.name], step

    @property
    def loss(self) -> float:
        """The mean of the last 50 losses."""
        return sum(self._recent) / len(self._recent) if self._recent else math.nan

    @property
    def rate(self) -> float:
        """Samples per second: the median of the last 50 steps."""
        return sorted(self._rates)[len(self._rates) // 2] if self._rates else 0.0

    @property
    def remaining(self) -> float | None:
        """Expected seconds to the last step, evaluations included; None while it is unknown."""
        if len(self._times) < 2:
            return None
        (begin, first), (end, last) = self._times[0], self._times[-1]
        if last <= first or end <= begin:  # a clock may stand still
            return None
        return (self.steps - last) * (end - begin) / (last - first)


def duration(seconds: float | None) -> str:
    """Seconds as text.

    >>> duration(5), duration(125), duration(7300)
    ('5 s', '2 min 05 s', '2 h 01 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
