"""Learning-rate schedules: the learning rate as a function of the step and the number of steps."""

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
    """Constant learning rate after a linear warm-up.

    lr = peak min(1, (step + 1) / warmup)

    >>> Constant(0.1, warmup=2)(0, 10)
    0.05
    """

    peak: float = 1e-3  # above 0
    warmup: Whole = 0  # steps

    def __post_init__(self) -> None:
        check_lr(self.peak)

    def __call__(self, step: int, steps: int) -> float:
        return self.peak * warmup_factor(step, self.warmup)


@dataclass(frozen=True)
class WarmupCosine(LRScheduleBase):
    """Linear warm-up, then cosine decay to ``floor``.

    lr = floor + (peak - floor) (1 + cos(pi u)) / 2,  u = (step - warmup) / (steps - warmup)
    Assumes a fixed number of steps: raising it changes the learning rate of every step.
    Source: Loshchilov and Hutter 2017, "SGDR" (arXiv 1608.03983).

    >>> WarmupCosine(1.0, warmup=0)(50, 100)
    0.5
    """

    peak: float = 1e-3  # above 0
    warmup: Whole = 100  # steps
    floor: NonNegative = 0.0  # final learning rate

    def __post_init__(self) -> None:
        check_lr(self.peak)

    def __call__(self, step: int, steps: int) -> float:
        if step < self.warmup:
            return self.peak * warmup_factor(step, self.warmup)
        u = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        return self.floor + (self.peak - self.floor) * (1 + math.cos(math.pi * u)) / 2


@dataclass(frozen=True)
class WarmupConstantCooldown(LRScheduleBase):
    """Linear warm-up, constant learning rate, and a cooldown at the end (warm-up, stable, decay).

    lr = peak while step < (1 - cooldown) steps;  then floor + (peak - floor) (1 - u^shape), u the progress of the
    cooldown in [0, 1].
    Before the cooldown the learning rate does not depend on the number of steps, so a run can be extended, or cooled
    down from any checkpoint.
    Source: Hagele et al. 2024 (arXiv 2405.18392); Hu et al. 2024, MiniCPM (arXiv 2404.06395).

    >>> WarmupConstantCooldown(1.0, warmup=0, cooldown=0.5)(75, 100)
    0.5
    """

    peak: float = 1e-3  # above 0
    warmup: Whole = 100  # steps
    cooldown: float = 0.2  # fraction of all steps, 0 to 1
    floor: NonNegative = 0.0  # final learning rate
    shape: Positive = 1.0  # exponent of the cooldown: 1 is linear, 0.5 is 1 - sqrt(u), which falls early

    def __post_init__(self) -> None:
        check_lr(self.peak)
        require(
            0 <= self.cooldown <= 1,
            f"WarmupConstantCooldown got cooldown={self.cooldown}; it is a fraction of all steps: give a number from 0 "
            "to 1, such as 0.2",
        )

    def branch(self, steps: int) -> int:
        """The first step of the cooldown."""
        return steps - round(self.cooldown * steps)

    def __call__(self, step: int, steps: int) -> float:
        start = self.branch(steps)
        lr = self.peak * warmup_factor(step, self.warmup)
        if step < start:
            return lr
        return self.floor + (lr - self.floor) * cooldown_factor(step, start, steps, self.shape)


@dataclass(frozen=True)
class OneCycle(LRScheduleBase):
    """Cosine warm-up to the peak, then cosine decay (one-cycle policy).

    lr increases from peak/start to peak over the first ``rise`` of the steps, then decreases to peak/end
    Assumes a fixed number of steps.
    Source: Smith and Topin 2018, "Super-convergence" (arXiv 1708.07120).

    >>> OneCycle(1.0, rise=0.5)(50, 100)
    1.0
    """

    peak: float = 1e-3  # above 0
    rise: float = 0.3  # fraction of the steps that warm up, above 0 and below 1
    start: Positive = 25.0  # initial learning rate: peak / start
    end: Positive = 1e4  # final learning rate: peak / end

    def __post_init__(self) -> None:
        check_lr(self.peak)
        require(
            0 < self.rise < 1,
            f"OneCycle got rise={self.rise}; it is a fraction of the steps: give a number between 0 and 1, such as 0.3",
        )

    def __call__(self, step: int, steps: int) -> float:
        turn = self.rise * steps
        low, u = (self.start, step / turn) if step <= turn else (self.end, (steps - step) / (steps - turn))
        floor = self.peak / low
        return floor + (self.peak - floor) * (1 - math.cos(math.pi * max(0.0, u))) / 2


@dataclass(frozen=True)
class InverseRoot(LRScheduleBase):
    """Linear warm-up, then inverse-square-root decay.

    lr = peak min((step + 1) / warmup, sqrt(warmup / (step + 1)))
    The learning rate does not depend on the number of steps.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); Karras et al. 2024, EDM2 (arXiv 2312.02696).

    >>> InverseRoot(1.0, warmup=4)(15, 100)
    0.5
    """

    peak: float = 1e-3  # above 0
    warmup: Count = 1000  # steps until the peak

    def __post_init__(self) -> None:
        check_lr(self.peak)

    def __call__(self, step: int, steps: int) -> float:
        return self.peak * min((step + 1) / self.warmup, math.sqrt(self.warmup / (step + 1)))


@dataclass(frozen=True)
class Cooldown(LRScheduleBase):
    """Another schedule up to a step, then a cooldown: a branch of an existing run.

    lr = inner(step, planned) while step < start;  then from inner(start, planned) to floor as 1 - u^shape
    Assumes a checkpoint at step ``start``.  The learning rate is continuous there, because the inner schedule is
    evaluated with the number of steps of the original run.
    Source: Hagele et al. 2024 (arXiv 2405.18392), cooldowns from one run with a constant learning rate.

    >>> Cooldown(Constant(1.0), start=50)(75, 100)
    0.5
    >>> Cooldown(WarmupCosine(1.0, warmup=0), start=50, planned=100)(50, 60)
    0.5
    """

    inner: LRSchedule = field(default_factory=Constant)
    start: Whole = 0  # the step at which the cooldown begins
    floor: NonNegative = 0.0  # final learning rate
    planned: Whole = 0  # number of steps of the original run; 0 means that of this run
    shape: Positive = 1.0  # exponent of the cooldown: 1 is linear, 0.5 is 1 - sqrt(u), which falls early

    @property
    def peak(self) -> float:
        """The peak of the inner schedule."""
        return self.inner.peak

    def branch(self, steps: int) -> int:
        """The first step of the cooldown."""
        return self.start

    def __call__(self, step: int, steps: int) -> float:
        planned = self.planned or steps
        if step < self.start:
            return self.inner(step, planned)
        top = self.inner(self.start, planned)
        return self.floor + (top - self.floor) * cooldown_factor(step, self.start, steps, self.shape)


@dataclass(frozen=True)
class RangeTest(LRScheduleBase):
    """Learning-rate range test: exponential increase from ``low`` to ``high`` in one short run.

    lr = low (high / low)^(step / (steps - 1))
    Assumes a throwaway run of a few hundred steps; ``steepest`` picks the learning rate from its losses.
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
            f"RangeTest got low={self.low}, high={self.high}; the learning rate increases from low to high: give a "
            "finite high above low",
        )

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return self.high

    def __call__(self, step: int, steps: int) -> float:
        return self.low * float((self.high / self.low) ** (step / max(1, steps - 1)))


def steepest(lrs: Sequence[float], losses: Sequence[float], memory: float = 0.9) -> float:
    """The learning rate of a range test at which the smoothed loss decreases fastest per log learning rate.

    smoothed_n = sum_k memory^(n-k) loss_k / sum_k memory^(n-k);  steps from the first non-finite loss on are ignored.

    >>> steepest([0.1, 1.0, 10.0], [3.0, 2.9, 1.0], memory=0.0)
    10.0
    """
    good = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    require(
        len(lrs) == len(losses) and good >= 2 and 0 <= memory < 1,
        f"steepest got {len(lrs)} learning rates, {len(losses)} losses ({good} finite before the first non-finite one) "
        f"and memory={memory}; give as many losses as learning rates, at least two finite ones, and 0 <= memory < 1",
    )
    smooth, total, mass = [], 0.0, 0.0
    for loss in losses[:good]:
        total, mass = memory * total + loss, memory * mass + 1
        smooth.append(total / mass)
    slopes = [(b - a) / math.log(s / r) for a, b, r, s in zip(smooth, smooth[1:], lrs, lrs[1:], strict=False)]
    require(
        min(slopes) < 0,
        "the losses of the range test never decrease, so none of its learning rates trains; start lower, or check the "
        "data",
    )
    return lrs[1 + slopes.index(min(slopes))]


def cooldown_factor(step: int, start: int, steps: int, shape: float) -> float:
    """Factor of the learning rate in a cooldown: 1 - u^shape, u the progress of the cooldown in [0, 1]."""
    return 1 - min(1.0, (step - start) / max(1, steps - start)) ** shape


def warmup_factor(step: int, warmup: int) -> float:
    """Factor of the learning rate in a linear warm-up; 1 / warmup in the first step, not zero."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def check_lr(peak: float) -> None:
    """Refuse a learning rate that is not a finite number above 0."""
    require(
        peak > 0 and math.isfinite(peak),
        f"the peak learning rate is {peak}; it has to be a finite number above 0: 1e-3 suits small networks, 1e-4 "
        "large ones",
    )
