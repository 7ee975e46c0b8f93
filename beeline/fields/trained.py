"""The sampling that a student was trained for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass

CLOSE = 1e-5  # difference of equal times, which are rounded to float32


@dataclass(frozen=True)
class Trained:
    """What a student was trained for, where its method fixes that: samplers refuse other times and further guidance.

    >>> Trained((0.0, 1.0)).plain()["times"]
    [0.0, 1.0]
    """

    times: tuple[float, ...] = ()  # rising, at which its steps start and end; () for any
    inside: bool = False  # whether it was trained between them too, so that a step may be divided
    guided: bool = False  # whether it has learned the guidance of its teacher

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.times, self.times[1:], strict=False))
        require(
            len(self.times) != 1 and rising and all(0 <= t <= 1 for t in self.times),
            f"Trained got times={self.times}; steps start and end at rising times in [0, 1]: give two or more",
        )

    @property
    def fixed(self) -> bool:
        """Whether it can only be evaluated at ``times``."""
        return bool(self.times) and not self.inside

    def check(self, times: Tensor, evaluations: int | None, guided: bool) -> None:
        """Raise ValueError for a run over ``times`` with so many evaluations, or with guidance, that it cannot do."""
        require(
            not (guided and self.guided),
            "this student has learned the guidance of its teacher, and further guidance would be applied to guided "
            "velocities: leave sampler.guidance out, or distil the teacher with another strength",
        )
        if not self.times:
            return
        run = [float(t) for t in times.double().cpu().reshape(len(times), -1)[:, 0]]
        advice = f"sample over {self.text()}, which is the sampler of its bundle"
        if self.inside:
            low, high = min(run), max(run)
            crossed = [t for t in self.times if low < t < high and not _near(t, run)]
            require(
                not crossed,
                f"a step of the sampler crosses the time {crossed[:1]}, where a part that this student was trained for "
                f"ends: {advice}, or divide its steps",
            )
            return
        known = [t for t in run if _near(t, self.times)]
        require(
            len(known) == len(run) and run == sorted(run),
            f"the sampler has the times {[round(t, 4) for t in run[:9]]}{', ...' if len(run) > 9 else ''}, and this "
            f"student was trained for steps between {self.text()} alone: {advice}, or distil for another number of "
            "evaluations",
        )
        require(
            evaluations == len(run) - 1,
            f"the solver takes {evaluations} evaluations in {len(run) - 1} steps, and this student was trained at the "
            "start of a step only: use a solver with one evaluation a step, which is that of its bundle",
        )

    def text(self) -> str:
        """Its times, for messages."""
        return f"{[round(t, 4) for t in self.times[:9]]}{', ...' if len(self.times) > 9 else ''}"

    def plain(self) -> dict[str, Any]:
        """As plain data, for ``flow.json``."""
        return {"times": list(self.times), "inside": self.inside, "guided": self.guided}


def trained_of(plain: Mapping[str, Any] | None) -> Trained | None:
    """What ``plain`` wrote; None for None.  Raises ValueError for other entries.

    >>> trained_of(Trained((0.0, 0.5, 1.0)).plain()).fixed
    True
    """
    if plain is None:
        return None
    times, inside, guided = plain.get("times"), plain.get("inside"), plain.get("guided")
    numbers = isinstance(times, list) and all(isinstance(t, int | float) and math.isfinite(t) for t in times)
    require(
        numbers and isinstance(inside, bool) and isinstance(guided, bool) and len(plain) == 3,
        f"trained is {dict(plain)!r}, which is not what a bundle writes; restore the file from a copy",
    )
    assert isinstance(times, list)
    return Trained(tuple(float(t) for t in times), bool(inside), bool(guided))


def _near(t: float, times: Sequence[float]) -> bool:
    return any(abs(t - known) < CLOSE for known in times)
