"""Verdicts from the figures of several seeds.

Each seed gives a baseline, a figure with the method, and a control. All three share their random numbers, so the
verdict uses the differences within a seed: d_s = baseline_s - figure_s where lower is better, the negative where
higher is better. With mean m and standard error e of the n differences, and the quantile q of Student's t
distribution with n - 1 degrees of freedom at ``LEVEL``:

    holds          m >  q e
    does not hold  m < -q e, or all differences are zero
    undecided      otherwise

Two standard errors would be right for many seeds only: with three seeds and no true difference, m > 2 e in 9 percent
of all cases. The quantile makes it 2.5 percent for any number of seeds (4.3 standard errors with three, 2.8 with
five). The control, in place of the figure, must not hold: a finding that a trivial control passes is invalid,
whatever the figure is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student

HOLDS, FAILS, UNDECIDED, INVALID = "holds", "does not hold", "undecided", "invalid"
VERDICTS = (HOLDS, FAILS, UNDECIDED, INVALID)
LEVEL = 0.975  # a finding without a true difference holds in 2.5 percent of all cases
SAME = 1e-9  # relative difference of two figures that is rounding


@dataclass(frozen=True)
class Finding:
    """One comparison, measured with one seed."""

    compares: str  # what is measured, and with the method against what
    baseline: float
    figure: float  # with the method
    control: float  # figure of a trivial method, which must fail
    trivial: str  # name of the control
    better: str = "lower"


@dataclass(frozen=True)
class Decision:
    """A verdict and the numbers behind it."""

    verdict: str
    gain: float  # mean difference in favour of the method
    error: float  # its standard error
    quantile: float  # of Student's t, in standard errors


def decide(baseline: Sequence[float], figure: Sequence[float], better: str) -> Decision:
    """The verdict over paired figures, one pair per seed, without the control.

    >>> decide([1.0, 1.1, 0.9], [0.5, 0.6, 0.4], "lower").verdict
    'holds'
    """
    if len(baseline) != len(figure) or len(baseline) < 2:
        raise ValueError(f"got {len(baseline)} and {len(figure)} figures; a verdict needs two or more pairs")
    if better not in ("lower", "higher"):
        raise ValueError(f"got better={better!r}; a figure is better when 'lower' or 'higher'")
    if not all(map(math.isfinite, baseline)):
        raise ValueError("got a baseline that is not finite; no figure can be compared with it")
    quantile = float(student.ppf(LEVEL, len(baseline) - 1))
    if not all(map(math.isfinite, figure)):
        return Decision(FAILS, -math.inf, 0.0, quantile)  # a method that diverges fails
    sign = 1.0 if better == "lower" else -1.0
    gains = [0.0 if _same(b, f) else sign * (b - f) for b, f in zip(baseline, figure, strict=True)]
    mean, error = fmean(gains), stdev(gains) / math.sqrt(len(gains))
    if mean > quantile * error:
        return Decision(HOLDS, mean, error, quantile)
    lost = mean < -quantile * error or not any(gains)
    return Decision(FAILS if lost else UNDECIDED, mean, error, quantile)


def judge(findings: Sequence[Finding]) -> tuple[str, Decision, Decision]:
    """(verdict, decision of the figure, decision of the control) over one finding measured with several seeds."""
    first = findings[0]
    if any((f.compares, f.better, f.trivial) != (first.compares, first.better, first.trivial) for f in findings):
        raise ValueError(f"got different comparisons beside {first.compares!r}; every seed must measure the same one")
    baseline = [f.baseline for f in findings]
    method = decide(baseline, [f.figure for f in findings], first.better)
    control = decide(baseline, [f.control for f in findings], first.better)
    return INVALID if control.verdict == HOLDS else method.verdict, method, control


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= SAME * max(abs(a), abs(b))
