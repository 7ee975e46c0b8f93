"""Products of integers whose inputs have ranges that were found beforehand, for every interval of the time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Protocol

import torch
from torch import Tensor

from beeline.core.ranges import Count, Range, dataclass
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


class InputRange(Protocol):
    """(some inputs [...], the largest |x| of all, the largest integer) -> the largest |x| that is not cut off."""

    def __call__(self, x: Tensor, largest: Tensor, top: int) -> Tensor:
        """The range []."""
        ...


@dataclass(frozen=True)
class Largest:
    """The range of all inputs that were seen.

    c = max |x|

    >>> Largest()(torch.zeros(3), torch.tensor(2.0), 127)
    tensor(2.)
    """

    def __call__(self, x: Tensor, largest: Tensor, top: int) -> Tensor:
        return largest


@dataclass(frozen=True)
class LeastError:
    """The range with the least squared error of the inputs: what is above it is cut off, and steps are finer.

    c = argmin E (x - step round(x / step))^2 within -top .. top, step = c / top,  c of ``points`` up to max |x|
    Of inputs from N(0, 1) with 8 bits it is 3.9.
    Source: Banner et al. 2018, "Post-training 4-bit quantization of convolution networks for rapid-deployment" (arXiv
    1810.05723), here by search.

    >>> x = torch.linspace(-1, 1, 101)
    >>> bool(LeastError()(torch.cat([x, torch.tensor([2.0])]), torch.tensor(2.0), 7) < 2)
    True
    """

    points: Count = 100

    def __call__(self, x: Tensor, largest: Tensor, top: int) -> Tensor:
        best, least = largest, torch.inf
        for k in range(self.points, 0, -1):
            step = nonzero(largest * k / self.points / top).to(x)
            error = float(((x / step).round().clamp(-top, top) * step - x).square().mean())
            if error < least:
                best, least = largest * k / self.points, error
        return best


@dataclass(frozen=True)
class RangedProducts(IntegerProducts):
    """Products of integers of 8 bits with fixed ranges of the inputs, one for every interval of the time.

    y_i = (sum_j q_ij p_j) scale_i step_k,  p = round(x / step_k) within -127 .. 127,
    step_k = c_k / 127,  c_k the range of the inputs at times in [k, k + 1) / intervals, such as max |x|
    Inputs near the data and near the noise differ in size, so that one range wastes bits where they are small.  The
    largest is not looked for in every evaluation, as in IntegerProducts.  Layers that are evaluated apart from the
    time, and intervals that were not seen, take the widest range.
    Source: Shang et al. 2022, PTQ4DM (arXiv 2211.15736); So et al. 2023, TDQ (arXiv 2306.02316), where a network
    predicts the ranges.

    >>> RangedProducts(1).encode(torch.ones(2, 3))["steps"].shape
    torch.Size([1])
    """

    intervals: Annotated[int, Range(1, FINE)] = 8
    ranges: InputRange = Largest()

    @property
    def calibrated(self) -> bool:
        return True

    @property
    def timed(self) -> bool:
        return True

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        steps = w.new_ones(self.intervals)
        if moments is not None:
            (rows, times), by_time = moments.some, moments.by_time.amax(1)
            index = torch.arange(FINE, device=by_time.device) * self.intervals // FINE
            largest = by_time.new_zeros(self.intervals).scatter_reduce(0, index, by_time, "amax")
            for k in range(self.intervals):
                inside = (times >= 0) & (times * self.intervals // FINE == k)
                seen = bool(largest[k] > 0)
                widest = largest[k] if seen else moments.largest.amax()
                steps[k] = self.ranges(rows[inside] if seen and bool(inside.any()) else rows, widest, 127) / 127
        return {**super().encode(w), "steps": steps}

    def product(self, x: Tensor, stored: Mapping[str, Tensor], out: int) -> Tensor:
        steps, times = nonzero(stored["steps"]).to(x.dtype), TIMES.get()
        if times is None or len(x) % len(times):
            step = steps.amax()
        else:
            rows = steps[fine_bins(times) * self.intervals // FINE]
            step = rows.repeat_interleave(len(x) // len(times)).view(-1, *[1] * (x.ndim - 1))
        return multiplied(x, step, stored, out)
