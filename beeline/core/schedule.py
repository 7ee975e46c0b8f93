"""Step schedules: where a solver puts its steps between two times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from beeline.core.types import require


class Schedule(Protocol):
    """[steps+1] strictly monotone times from ``start`` to ``end``, rising or falling."""

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor: ...


class Warped:
    """A schedule that is even in a warped clock: t = warp(u), u evenly spaced.

    A part of [0, 1] keeps the density that the whole has there, and a falling schedule has the nodes of the rising
    one, so that inversion walks the same steps.  A subclass gives ``warp`` and its inverse ``unwarp`` on [0, 1].
    """

    def warp(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def unwarp(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
        interval(steps, start, end)
        u0, u1 = self.unwarp(torch.tensor([start, end], dtype=torch.float64))
        times = self.warp(u0 + (u1 - u0) * torch.linspace(0, 1, steps + 1, dtype=torch.float64))
        times[0], times[-1] = start, end
        return monotone(times.to(torch.get_default_dtype()), self)


@dataclass(frozen=True)
class Uniform(Warped):
    """Equal steps.

    t_i = i / steps
    Assumes nothing.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003).

    >>> Uniform()(4)
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """

    def warp(self, u: Tensor) -> Tensor:
        return u

    def unwarp(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class Shifted(Warped):
    """Smaller steps near the source for a shift above 1, as high resolutions need.

    t = u / (u + shift (1 - u)),  u evenly spaced;  the same as sigma' = shift sigma / (1 + (shift - 1) sigma)
    Assumes nothing; the shift is applied once, to times, and both ends stay exact.
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206), equation 23.

    >>> Shifted(3.0)(2)
    tensor([0.0000, 0.2500, 1.0000])
    """

    shift: float = 3.0  # 1 is uniform; 3 for SD3 at 1024 pixels

    def __post_init__(self) -> None:
        require(self.shift > 0, f"Shifted got shift={self.shift}; a shift is above 0: 1 is uniform, 3 is usual")

    def warp(self, u: Tensor) -> Tensor:
        return u / (u + self.shift * (1 - u))

    def unwarp(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 - t + self.shift * t)


@dataclass(frozen=True)
class Explicit:
    """Times given one by one, as fitted schedules are; a part of them when only a part is walked.

    t_i = values_i
    Assumes the number of steps asked for is len(values) - 1.
    Source: none; a list of numbers.

    >>> Explicit((0.0, 0.3, 1.0))(2)
    tensor([0.0000, 0.3000, 1.0000])
    """

    values: tuple[float, ...]  # strictly rising, from 0 to 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(v) for v in self.values))
        rising = all(a < b for a, b in zip(self.values, self.values[1:], strict=False))
        require(
            len(self.values) >= 2 and rising and self.values[0] >= 0 and self.values[-1] <= 1,
            f"Explicit got the times {self.values}; steps have to go forward from source to data: "
            "give at least two strictly rising numbers in [0, 1] (a falling walk reverses them by itself)",
        )

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
        interval(steps, start, end)
        require(
            steps == len(self.values) - 1,
            f"Explicit holds {len(self.values) - 1} steps, but {steps} were asked for; "
            f"set steps={len(self.values) - 1} or give other times",
        )
        values = torch.tensor(self.values, dtype=torch.float64)
        if start > end:
            values = values.flip(0)
        times = start + (end - start) * (values - values[0]) / (values[-1] - values[0])
        whole = (float(values[0]), float(values[-1])) == (start, end)
        return monotone((values if whole else times).to(torch.get_default_dtype()), self)


def interval(steps: int, start: float, end: float) -> None:
    """Refuse a walk without steps, of no length, or outside [0, 1]."""
    require(
        isinstance(steps, int) and steps >= 1,
        f"steps={steps!r}; a walk needs at least one step: give a whole number from 1",
    )
    require(
        0 <= start <= 1 and 0 <= end <= 1 and start != end,
        f"the walk from {start} to {end} is empty or leaves [0, 1]; t = 0 is the source and t = 1 the data: "
        "give two different times between them",
    )


def monotone(times: Tensor, schedule: object) -> Tensor:
    """Refuse times two of which coincide."""
    steps = times.diff()
    require(
        bool((steps > 0).all() or (steps < 0).all()),
        f"{schedule} makes times that do not move strictly in one direction: {times.tolist()}; "
        "take fewer steps or a gentler schedule",
    )
    return times
