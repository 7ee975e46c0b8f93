"""Guidance that estimates its weak prediction at some times, so that it costs one evaluation there."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, Dynamics
from beeline.sampling.guidance.guide import Guide, OfGuide

SAME = 1e-5  # times closer than this are one time


@dataclass(frozen=True)
class SkippedWeak(OfGuide):
    """Guidance whose weak prediction is computed at some times, and estimated from earlier predictions at others.

    v = rule(strong, weak),  at ``times``: weak = a strong + b strong_j + c weak_j,  (a, b, c) = weights of that time
    Here j is the last evaluation in which both were computed.  The weights (0, 0, 1) hold the weak prediction,
    (1, -1, 1) hold the difference of both, and (1, 0, 0) omit guidance.  ``fit_skipping`` finds times and weights.
    Assumes that all samples have one time, as under solvers that are not parallel in time.
    Source: Castillo et al. 2023, "Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models"
    (arXiv 2312.12487).

    >>> from beeline.sampling.guidance.guide import CFG
    >>> guidance = SkippedWeak(CFG(3.0, null=10), times=(0.5, 0.75))
    >>> guidance.calls(0.25), guidance.calls(0.5)
    (2, 1)
    """

    guidance: Guidance  # a Guide, such as CFG(scale)
    times: tuple[float, ...] = ()  # of the evaluations in which the weak prediction is estimated, in (0, 1]
    weights: tuple[tuple[float, float, float], ...] = ((1.0, -1.0, 1.0),)  # one for all times, or one for each

    def __post_init__(self) -> None:
        require(
            isinstance(self.guidance, Guide),
            f"SkippedWeak got {type(self.guidance).__name__}; it estimates the weak prediction of a rule: give a "
            "Guide, such as CFG(3.0)",
        )
        require(
            all(0 < t <= 1 for t in self.times),
            f"SkippedWeak got times={self.times}; they are times of evaluations after the first one, in which nothing "
            "can be reused yet: give times above 0 and at most 1",
        )
        require(
            len(self.weights) in (1, len(self.times)) and all(len(row) == 3 for row in self.weights),
            f"SkippedWeak got {len(self.weights)} weights for {len(self.times)} times; every time has three numbers: "
            "give one triple for each time, or one for all",
        )

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            not is_map(field),
            "SkippedWeak got a flow map; its jumps differ in length, so that earlier predictions are no estimate: use "
            "the guidance inside without it",
        )
        alone, both = self.guide.predictions(field, cond)
        combine = self.guide.rule.for_run()
        low, high = self.guide.window
        known: list[Tensor] = []

        def f(x: Tensor, t: Tensor) -> Tensor:
            time = one_time(t, "SkippedWeak")
            if not low <= time <= high:
                return alone(x, t)
            weights = self.weights_at(time)
            if weights is None:
                strong, weak = known[:] = both(x, t)
            else:
                require(
                    bool(known) or weights[1:] == (0, 0),
                    f"SkippedWeak was to estimate the weak prediction at t={time:g}, the first time with guidance of "
                    "this run; nothing can be reused there: start at another time, or leave this one out of times",
                )
                now, before = alone(x, t), known or (0.0, 0.0)
                strong, weak = now, weights[0] * now + weights[1] * before[0] + weights[2] * before[1]
            return combine(strong, weak, x, t)

        return f

    def weights_at(self, t: float) -> tuple[float, float, float] | None:
        """The weights at a time; None where the weak prediction is computed."""
        rows = self.weights * len(self.times) if len(self.weights) == 1 else self.weights
        return next((row for time, row in zip(self.times, rows, strict=True) if abs(time - t) < SAME), None)

    def calls(self, t: float) -> int:
        return 1 if self.weights_at(t) is not None else self.guide.calls(t)


def one_time(t: Tensor, whose: str) -> float:
    """The time of all samples; raises ValueError where they have several."""
    times = host_times(t).flatten()
    require(
        bool((times == times[0]).all()),
        f"{whose} got samples at times from {float(times.min()):g} to {float(times.max()):g} in one evaluation; what "
        "it does depends on the time: use a solver that is not parallel in time, such as EULER",
    )
    return float(times[0])
