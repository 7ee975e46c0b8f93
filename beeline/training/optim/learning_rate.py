"""Rates: the learning rate as a function of the step and the number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field

from beeline.core.errors import require
from beeline.core.protocols.training import LRSchedule
from beeline.core.ranges import Count, NonNegative, Positive, Whole, dataclass


class LRScheduleBase:
    """Default of the LRSchedule protocol: every learning rate may depend on the number of steps."""

    def branch(self, steps: int) -> int:
        return 0


@dataclass(frozen=True)
class Constant(LRScheduleBase):
    """One lr, after a linear warm-up.

    lr = peak min(1, (step + 1) / warmup)
    Assumes nothing.
    Source: none.

    >>> Constant(0.1, warmup=2)(0, 10)
    0.05
    """

    peak: float = 1e-3  # above 0
    warmup: Whole = 0  # steps

    def __post_init__(self) -> None:
        check_lr(self.peak)

    def __call__(self, step: int, steps: int) -> float:
        return self.peak * ramp(step, self.warmup)


@dataclass(frozen=True)
class WarmupCosine(LRScheduleBase):
    """Linear warm-up, then half a cosine down to a floor.

    lr = floor + (peak - floor) (1 + cos(pi u)) / 2,  u = (step - warmup) / (steps - warmup)
    Assumes that the number of steps is known beforehand: raising it later changes the rates of all steps.
    Source: Loshchilov and Hutter 2017, "SGDR" (arXiv 1608.03983).

    >>> WarmupCosine(1.0, warmup=0)(50, 100)
    0.5
    """

    peak: float = 1e-3  # above 0
    warmup: Whole = 100  # steps
    floor: NonNegative = 0.0  # lr at the end

    def __post_init__(self) -> None:
        check_lr(self.peak)

    def __call__(self, step: int, steps: int) -> float:
        if step < self.warmup:
            return self.peak * ramp(step, self.warmup)
        u = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        return self.floor + (self.peak - self.floor) * (1 + math.cos(math.pi * u)) / 2


@dataclass(frozen=True)
class WarmupConstantCooldown(LRScheduleBase):
    """Linear warm-up, a constant lr, and a cooldown over the last part (warm-up, stable, decay).

    lr = peak while step < (1 - cooldown) steps;  then floor + (peak - floor) (1 - u^shape), u the share of it done
    Assumes nothing; until the cooldown begins the rates do not depend on the number of steps, so that a run can be
    made longer, or cooled down from any checkpoint.
    Source: Hagele et al. 2024 (arXiv 2405.18392); Hu et al. 2024, MiniCPM (arXiv 2404.06395).

    >>> WarmupConstantCooldown(1.0, warmup=0, cooldown=0.5)(75, 100)
    0.5
    """

    peak: float = 1e-3  # above 0
    warmup: Whole = 100  # steps
    cooldown: float = 0.2  # share of all steps, 0 to 1
    floor: NonNegative = 0.0  # lr at the end
    shape: Positive = 1.0  # of the cooldown, above 0: 1 is a line, 0.5 is 1 - sqrt(u), which falls early

    def __post_init__(self) -> None:
        check_lr(self.peak)
        require(
            0 <= self.cooldown <= 1,
            f"the cooldown is {self.cooldown}; it is a share of all steps: give a number from 0 to 1, 0.2 is usual",
        )

    def branch(self, steps: int) -> int:
        """The first step of the cooldown."""
        return steps - round(self.cooldown * steps)

    def __call__(self, step: int, steps: int) -> float:
        start = self.branch(steps)
        lr = self.peak * ramp(step, self.warmup)
        if step < start:
            return lr
        return self.floor + (lr - self.floor) * left(step, start, steps, self.shape)


@dataclass(frozen=True)
class OneCycle(LRScheduleBase):
    """Up to the peak and down again, both along half a cosine.

    lr rises from peak/start to peak over the first part, then falls to peak/end
    Assumes that the number of steps is known beforehand.
    Source: Smith and Topin 2018, "Super-convergence" (arXiv 1708.07120).

    >>> OneCycle(1.0, rise=0.5)(50, 100)
    1.0
    """

    peak: float = 1e-3  # above 0
    rise: float = 0.3  # share of the steps on the way up, above 0 and below 1
    start: Positive = 25.0  # the first lr is peak / start
    end: Positive = 1e4  # the last lr is peak / end

    def __post_init__(self) -> None:
        check_lr(self.peak)
        require(
            0 < self.rise < 1,
            f"OneCycle got rise={self.rise}; it is a share between 0 and 1: 0.3 is usual",
        )

    def __call__(self, step: int, steps: int) -> float:
        turn = self.rise * steps
        low, u = (self.start, step / turn) if step <= turn else (self.end, (steps - step) / (steps - turn))
        floor = self.peak / low
        return floor + (self.peak - floor) * (1 - math.cos(math.pi * max(0.0, u))) / 2


@dataclass(frozen=True)
class InverseRoot(LRScheduleBase):
    """Linear warm-up, then the inverse square root of the step.

    lr = peak min((step + 1) / warmup, sqrt(warmup / (step + 1)))
    Assumes nothing; it does not depend on the number of steps.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); Karras et al. 2024, EDM2 (arXiv 2312.02696).

    >>> InverseRoot(1.0, warmup=4)(15, 100)
    0.5
    """

    peak: float = 1e-3  # above 0
    warmup: Count = 1000  # steps until the peak, from 1

    def __post_init__(self) -> None:
        check_lr(self.peak)

    def __call__(self, step: int, steps: int) -> float:
        return self.peak * min((step + 1) / self.warmup, math.sqrt(self.warmup / (step + 1)))


@dataclass(frozen=True)
class Cooldown(LRScheduleBase):
    """Another lr up to a step, and from there down: a branch off a running training.

    lr = inner(step, planned) while step < start;  then from inner(start, planned) to floor as 1 - u^shape
    Assumes that ``start`` is a step of which there is a checkpoint.  The lr is continuous where the branch begins,
    because the inner lr is asked with the number of steps of the run that is left.
    Source: Hagele et al. 2024 (arXiv 2405.18392), cooldowns from one constant-rate run.

    >>> Cooldown(Constant(1.0), start=50)(75, 100)
    0.5
    >>> Cooldown(WarmupCosine(1.0, warmup=0), start=50, planned=100)(50, 60)
    0.5
    """

    inner: LRSchedule = field(default_factory=Constant)
    start: Whole = 0  # the step at which the cooldown begins
    floor: NonNegative = 0.0  # lr at the end
    planned: Whole = 0  # steps of the run that the branch leaves; 0 is the number of steps of this one
    shape: Positive = 1.0  # of the cooldown, above 0: 1 is a line, 0.5 is 1 - sqrt(u), which falls early

    @property
    def peak(self) -> float:
        """The peak of the inner lr."""
        return self.inner.peak

    def branch(self, steps: int) -> int:
        """The first step of the cooldown."""
        return self.start

    def __call__(self, step: int, steps: int) -> float:
        planned = self.planned or steps
        if step < self.start:
            return self.inner(step, planned)
        top = self.inner(self.start, planned)
        return self.floor + (top - self.floor) * left(step, self.start, steps, self.shape)


@dataclass(frozen=True)
class RangeTest(LRScheduleBase):
    """From a low lr to a high one, by a factor a step: a short run that shows which rates learn.

    lr = low (high / low)^(step / (steps - 1))
    Assumes that a run of a few hundred steps is thrown away; ``steepest`` reads the lr off its losses.
    Source: Smith 2017, "Cyclical Learning Rates" (arXiv 1506.01186); Smith and Topin 2018 (arXiv 1708.07120).

    >>> round(RangeTest(1e-4, 1.0)(2, 5), 6)
    0.01
    """

    low: Positive = 1e-6  # of the first step, above 0
    high: Positive = 1.0  # of the last step, above low

    def __post_init__(self) -> None:
        check_lr(self.low)
        require(
            self.low < self.high < math.inf,
            f"RangeTest got low={self.low}, high={self.high}; the lr rises from the one to the other: give a finite "
            "high above low",
        )

    @property
    def peak(self) -> float:
        """The highest lr."""
        return self.high

    def __call__(self, step: int, steps: int) -> float:
        return self.low * float((self.high / self.low) ** (step / max(1, steps - 1)))


def steepest(rates: Sequence[float], losses: Sequence[float], memory: float = 0.9) -> float:
    """The lr of a range test at which the smoothed loss falls fastest, by the logarithm of the lr.

    smoothed_n = sum_k memory^(n-k) loss_k / sum_k memory^(n-k);  steps after the first loss that is not finite are left
    out.

    >>> steepest([0.1, 1.0, 10.0], [3.0, 2.9, 1.0], memory=0.0)
    10.0
    """
    good = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    require(
        len(rates) == len(losses) and good >= 2 and 0 <= memory < 1,
        f"steepest got {len(rates)} rates, {len(losses)} losses ({good} finite from the start), memory={memory}; give "
        "as many of both, two finite ones at least, and a memory from 0 to below 1",
    )
    smooth, total, mass = [], 0.0, 0.0
    for loss in losses[:good]:
        total, mass = memory * total + loss, memory * mass + 1
        smooth.append(total / mass)
    slopes = [(b - a) / math.log(s / r) for a, b, r, s in zip(smooth, smooth[1:], rates, rates[1:], strict=False)]
    require(
        min(slopes) < 0,
        "the losses of the range test never fall, so that no lr of it learns; start lower, or look at the data",
    )
    return rates[1 + slopes.index(min(slopes))]


def left(step: int, start: int, steps: int, shape: float) -> float:
    """What is left of the lr in a cooldown: 1 - u^shape, with u the share of it that is done."""
    return 1 - min(1.0, (step - start) / max(1, steps - start)) ** shape


def ramp(step: int, warmup: int) -> float:
    """The share of the peak during a linear warm-up; the first step has 1 / warmup, not zero."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def check_lr(peak: float) -> None:
    """Refuse rates that cannot learn."""
    require(
        peak > 0 and math.isfinite(peak),
        f"the peak lr is {peak}; a lr is a finite number above 0: 1e-3 suits small networks, 1e-4 large ones",
    )
