"""Products of integers whose inputs have ranges that were found beforehand, for every interval of the time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.ranges import Range, dataclass
from beeline.networks.compressing.around import IntegerProducts, multiplied
from beeline.networks.compressing.compressor import FINE, Moments, fine_bins
from beeline.networks.compressing.formats import nonzero

TIMES: ContextVar[Tensor | None] = ContextVar("times", default=None)  # [B] of the evaluation that is under way


@contextmanager
def at_times(x: Tensor, t: Tensor) -> Iterator[None]:
    """Evaluate a network at times of its rows; several times in a row are not told apart."""
    rows = t.detach().expand(len(x)) if t.ndim == 0 else t.detach().flatten()
    token = TIMES.set(rows if len(rows) == len(x) else None)
    try:
        yield
    finally:
        TIMES.reset(token)


@dataclass(frozen=True)
class RangedProducts(IntegerProducts):
    """Products of integers of 8 bits with fixed ranges of the inputs, one for every interval of the time.

    y_i = (sum_j q_ij p_j) scale_i step_k,  p = round(x / step_k) within -127 .. 127,
    step_k = max |x| / 127 over the inputs at times in [k, k + 1) / intervals
    Inputs near the data and near the noise differ in size, so that one range wastes bits where they are small.  The
    largest is not looked for in every evaluation, as in IntegerProducts.  Layers that are evaluated apart from the
    time, and intervals that were not seen, take the widest range.
    Source: Shang et al. 2022, PTQ4DM (arXiv 2211.15736); So et al. 2023, TDQ (arXiv 2306.02316), where a network
    predicts the ranges.

    >>> RangedProducts(1).encode(torch.ones(2, 3))["steps"].shape
    torch.Size([1])
    """

    intervals: Annotated[int, Range(1, FINE)] = 8

    @property
    def calibrated(self) -> bool:
        return True

    @property
    def timed(self) -> bool:
        return True

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        steps = w.new_ones(self.intervals)
        if moments is not None:
            largest = moments.by_time.amax(1)
            index = torch.arange(FINE, device=largest.device) * self.intervals // FINE
            steps = largest.new_zeros(self.intervals).scatter_reduce(0, index, largest, "amax")
            steps = torch.where(steps > 0, steps, moments.largest.amax()).to(w) / 127
        return {**super().encode(w), "steps": steps}

    def product(self, x: Tensor, stored: Mapping[str, Tensor], out: int) -> Tensor:
        steps, times = nonzero(stored["steps"]).to(x.dtype), TIMES.get()
        if times is None or len(x) % len(times):
            step = steps.amax()
        else:
            rows = steps[fine_bins(times) * self.intervals // FINE]
            step = rows.repeat_interleave(len(x) // len(times)).view(-1, *[1] * (x.ndim - 1))
        return multiplied(x, step, stored, out)
