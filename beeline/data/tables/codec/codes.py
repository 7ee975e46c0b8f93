"""Codes of columns: cells as states (one of K) and intervals of ranks, sampled as coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.rng import Rng

Array = np.ndarray[Any, Any]

EXACT = 300  # most distinct values that are stored; beyond, quantiles
KNOTS = 512  # number of stored quantiles
ATOM = 0.005  # frequency from which a value is stored with its exact frequency
EDGE = 1e-6  # smallest distance of ranks from 0 and 1: coordinates are within 4.8
FINE = 1e-15  # the same in float64, in which integers and datetimes are decoded exactly
PAD = 5e-8  # smallest distance from the ends of an interval, for rounding to float32
ONE_HOT = 64  # a category with more levels is encoded in bits
SPIKES = 128  # numbers with at most so many distinct values ...
SPIKE = 0.3  # ... one of which has at least this frequency, are encoded as states


@dataclass(frozen=True)
class Quantile:
    """Numbers by their rank: every value has the interval of ranks that it has in the data.

    z = Phi^-1(u), u uniform in [F(v-), F(v)];  v = F^-1(Phi(z))
    z is exactly normal for any distribution, with repeated values and heavy tails.  Values between knots are
    interpolated; the position within an interval is noise, which decoding drops.
    Source: Brockwell 2007, "Universal residuals: a multivariate transformation" (randomised quantiles).

    >>> q = Quantile.fit(np.array([0.0, 0.0, 0.0, 5.0]))
    >>> [float(end) for end in q.span(np.array([5.0]))[0]], q.value(np.array([0.5, 0.9])).tolist()
    ([0.75, 1.0], [0.0, 5.0])
    """

    u: tuple[float, ...]  # ranks, not falling
    v: tuple[float, ...]  # values at these ranks, not falling

    @classmethod
    def fit(cls, values: Array) -> Quantile:
        different, counts = np.unique(values, return_counts=True)
        ends = np.concatenate([[0], np.cumsum(counts)]) / len(values)
        low, high = ends[:-1], ends[1:]
        if len(different) <= EXACT:
            return cls(_row(np.stack([low, high], 1).ravel()), _row(np.repeat(different, 2)))
        atom = counts >= max(2, ATOM * len(values))
        grid = np.searchsorted(high, np.linspace(0, 1, KNOTS), side="left").clip(0, len(different) - 1)
        tail = (
            np.unique(np.geomspace(1, len(different), 40).astype(int)) - 1
        )  # the tails, where quantiles are far apart
        keep = np.unique(np.concatenate([grid, tail, len(different) - 1 - tail, np.flatnonzero(atom)]))
        middle = (low + high) / 2
        left, right = np.where(atom, low, middle)[keep], np.where(atom, high, middle)[keep]
        twice = np.stack([left, right], 1).ravel()
        both = np.repeat(different[keep], 2)
        once = np.concatenate([[True], (np.diff(twice) > 0) | (np.diff(both) > 0)])
        return cls(_row(twice[once]), _row(both[once]))

    def span(self, values: Array) -> Array:
        """The interval of ranks [N,2] of values."""
        u, v = np.array(self.u), np.array(self.v)
        first, last = np.searchsorted(v, values, side="left"), np.searchsorted(v, values, side="right") - 1
        known = last >= first
        between = np.interp(values, v, u)
        low = np.where(known, u[first.clip(0, len(u) - 1)], between)
        high = np.where(known, u[last.clip(0, len(u) - 1)], between)
        return np.stack([low, high], 1)

    def value(self, ranks: Array) -> Array:
        return np.asarray(np.interp(ranks, np.array(self.u), np.array(self.v)))

    def log_slope(self, values: Array) -> Array:
        """log of dF/dv for values between knots, of the share of a value for those that repeat: [N]."""
        u, v = np.array(self.u), np.array(self.v)
        ends = self.span(values)
        share = ends[:, 1] - ends[:, 0]
        right = np.searchsorted(v, values, side="right")
        first, last = (right - 8).clip(0, len(v) - 1), (right + 7).clip(0, len(v) - 1)  # one gap alone is noise
        rise, run = u[last] - u[first], v[last] - v[first]
        slope = np.where(run > 0, rise / np.where(run > 0, run, 1), 0)
        floor = 1 / max(len(u), 2) ** 2  # outside the data: as rare as an unseen value
        return np.log(np.maximum(np.where(share > 0, share, slope), floor))


@dataclass(frozen=True)
class Standard:
    """Numbers less their mean, over their deviation.

    z = (v - mean) / deviation
    Assumes a distribution without heavy tails or many repeated values; unlike quantiles it extends beyond the data.

    >>> Standard.fit(np.array([1.0, 3.0])).value(np.array([0.0]))
    array([2.])
    """

    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: Array) -> Standard:
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def value(self, z: Array) -> Array:
        return self.mean + self.deviation * z


@dataclass(frozen=True)
class Code:
    """One column as coordinates: a state where there is a choice, and a rank where there is a number.

    ``levels`` are the states of a category, or ("given", None) of a number with empty cells; the state takes one
    coordinate per level (one-hot), or one per bit where there are many levels; the number takes one more.
    Source: the bits are those of Kinakh and Voloshynovskiy 2024 (arXiv 2409.13882), which handle any number of levels.
    """

    levels: tuple[Any, ...] = ()
    number: Quantile | Standard | None = None
    bits: bool = False

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the blocks of coordinates: 1 for a number or a bit, K for one of K states."""
        count = len(self.levels)
        state = () if count == 0 else (1,) * max(1, (count - 1).bit_length()) if self.bits else (count,)
        return (*state, 1) if self.number is not None else state

    @property
    def width(self) -> int:
        return sum(self.blocks)

    def coordinates(self, state: Tensor, span: Tensor, draw: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Coordinates [N,width] of states [N] and intervals [N,2], with numbers ``draw`` [N] in [0,1)."""
        parts = []
        if self.levels:
            if self.bits:
                parts.append(((state[:, None] >> torch.arange(len(self.blocks))) & 1).to(dtype) * 2 - 1)
            else:
                parts.append(torch.nn.functional.one_hot(state, len(self.levels)).to(dtype) * 2 - 1)
        if self.number is not None:
            low, high = span[:, 0], span[:, 1]
            ranked = isinstance(self.number, Quantile)
            low, high = (low, high) if ranked else (torch.zeros_like(low), torch.ones_like(high))
            pad = ((high - low) / 4).clamp(max=PAD)
            u = low + pad + (high - low - 2 * pad) * draw
            edge = FINE if dtype == torch.float64 else EDGE
            z = torch.special.ndtri(u.clamp(edge, 1 - edge))
            if not ranked:
                z = torch.where(span[:, 0].isnan(), z, span[:, 0])
            parts.append(z.to(dtype)[:, None])
        return torch.cat(parts, 1) if parts else torch.empty(len(state), 0, dtype=dtype)

    def read(self, x: Tensor, full: bool = False) -> tuple[Tensor, Array]:
        """States [N] and numbers [N] of coordinates; the way back.  With ``full`` no cell is empty (the last level)."""
        count = len(self.levels) - (full and None in self.levels)
        width = self.width - (self.number is not None)
        state = torch.zeros(len(x), dtype=torch.int64)
        if self.levels:
            block = x[:, :width]
            state = self._nearest(block, count) if self.bits else block[:, :count].argmax(1)
        if self.number is None:
            return state, np.zeros(0)
        z = x[:, -1].double()
        known = isinstance(self.number, Quantile)
        return state, self.number.value((torch.special.ndtr(z) if known else z).numpy())

    def _nearest(self, block: Tensor, count: int) -> Tensor:
        powers = 1 << torch.arange(block.shape[1])
        state = ((block > 0) * powers).sum(1)
        lost = (state >= count).nonzero().flatten()
        if len(lost):  # bits of no level: the level whose bits are nearest
            known = ((torch.arange(count)[:, None] >> torch.arange(block.shape[1])) & 1).to(block.dtype) * 2 - 1
            for rows in lost.split(1024):
                state[rows] = (block[rows] @ known.T).argmax(1)
        return state

    def plain(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if self.levels:
            made |= {"levels": list(self.levels), "bits": self.bits}
        if isinstance(self.number, Quantile):
            made |= {"u": list(self.number.u), "v": list(self.number.v)}
        elif isinstance(self.number, Standard):
            made |= {"mean": self.number.mean, "deviation": self.number.deviation}
        return made

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Code:
        number: Quantile | Standard | None = None
        if "u" in data:
            number = Quantile(tuple(data["u"]), tuple(data["v"]))
        elif "mean" in data:
            number = Standard(float(data["mean"]), float(data["deviation"]))
        return cls(tuple(data.get("levels", ())), number, bool(data.get("bits", False)))


@dataclass(frozen=True, eq=False)
class Cells:
    """A table as states and intervals of ranks, from which coordinates are sampled."""

    codes: tuple[Code, ...]
    states: Tensor  # [N,C] int64
    spans: Tensor  # [N,C,2] float64, ranks (or standardised values, NaN where empty)

    def __len__(self) -> int:
        return len(self.states)

    def take(self, rows: Tensor) -> Cells:
        return Cells(self.codes, self.states[rows], self.spans[rows])

    def coordinates(self, rng: Rng, dtype: torch.dtype = torch.float32) -> Tensor:
        """Coordinates [N,D]; positions within intervals, and numbers of empty cells, are sampled with ``rng``."""
        numbered = [i for i, code in enumerate(self.codes) if code.number is not None]
        draws = rng.fill(self.spans.new_empty(len(self), len(numbered)))
        where = {i: k for k, i in enumerate(numbered)}
        nothing = self.spans.new_zeros(len(self))
        parts = [
            code.coordinates(self.states[:, i], self.spans[:, i], draws[:, where[i]] if i in where else nothing, dtype)
            for i, code in enumerate(self.codes)
        ]
        return torch.cat(parts, 1)


def split(x: Tensor, codes: Sequence[Code]) -> list[Tensor]:
    """The coordinates [N,D] of every column."""
    width = sum(code.width for code in codes)
    require(
        x.ndim == 2 and x.shape[1] == width,
        f"coordinates of shape {tuple(x.shape)} were to be read as rows of {width}; pass what this table's flow made",
    )
    return list(x.split([code.width for code in codes], 1))


def _row(values: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
