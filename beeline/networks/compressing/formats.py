"""Number formats of stored weights: codes of few bits with scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.ranges import Count, Range, dataclass
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.rounding import Grid, Nearest, Rounding


class Format(Protocol):
    """How a weight [out,in] is stored."""

    @property
    def calibrated(self) -> bool:
        """Whether ``encode`` looks at the inputs of the layer."""
        return False

    @property
    def timed(self) -> bool:
        """Whether products depend on the time of the evaluation."""
        return False

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        """The stored tensors by name, such as codes in uint8 and scales; their shapes depend on that of ``w`` alone.

        ``moments`` are those of the inputs of the layer.
        """
        ...

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        """The weight [out,into] that is computed with, in the dtype of the scales."""
        ...

    def product(self, x: Tensor, stored: Mapping[str, Tensor], out: int) -> Tensor:
        """The product [...,out] of inputs [...,in] with the weight, without a bias."""
        return F.linear(x, self.decode(stored, out, x.shape[-1]).to(x.dtype))


class Gridded(Grid, Format):
    """Base of formats whose numbers are one of few values, times a scale for each group of a row."""

    @property
    def calibrated(self) -> bool:
        return self.rounding.calibrated

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        codes, fitted = self.rounding(self, w, moments)
        return {"codes": pack(codes, self.bits), **fitted}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        codes = self.grouped(unpack(stored["codes"], self.bits, into))
        return self.value(codes, stored).flatten(1)[:, :into]

    def bound(self, w: Tensor) -> Tensor:
        """The largest error of rounding to nearest, for every number of a weight [out,in]."""
        return self.halves(self.fit(self.grouped(w))).repeat_interleave(self.size(w), 1)[:, : w.shape[1]]

    def halves(self, fitted: Mapping[str, Tensor]) -> Tensor:
        """The largest error of the numbers of every group [out,groups]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Integers(Gridded):
    """Signed integers of few bits, with one scale for every group of numbers along the input.

    w ~ scale q,  scale = max |w| of a group / (2^(bits-1) - 1),  q = round(w / scale);  |error| <= scale / 2
    A number takes bits + 32 / group bits.
    Source: rounding to nearest; groups: Dettmers et al. 2021 (arXiv 2110.02861).

    >>> form = Integers(8)
    >>> form.decode(form.encode(torch.tensor([[1.0, -0.5]])), 1, 2)
    tensor([[ 1.0000, -0.5039]])
    """

    bits: Annotated[int, Range(2, 8)] = 8
    group: Count = 64  # numbers of a row with one scale, or the row; the last group of a row may be smaller
    rounding: Rounding = Nearest()

    @property
    def top(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1

    def fit(self, w: Tensor) -> dict[str, Tensor]:
        return {"scale": w.abs().amax(-1) / self.top}

    def nearest(self, w: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        q = (w / nonzero(fitted["scale"])[..., None]).round().clamp(-self.top, self.top)
        return (q + self.top).to(torch.uint8)

    def value(self, codes: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        scale = fitted["scale"]
        return (codes.to(scale.dtype) - self.top) * scale[..., None]

    def halves(self, fitted: Mapping[str, Tensor]) -> Tensor:
        return 0.5 * fitted["scale"]


@dataclass(frozen=True)
class OffsetIntegers(Gridded):
    """Integers from the smallest to the largest number of every group, with a scale and an offset (asymmetric).

    w ~ low + scale q,  scale = (high - low) / (2^bits - 1),  low <= 0 <= high
    A number takes bits + 64 / group bits.
    Source: Jacob et al. 2017 (arXiv 1712.05877); with groups: Dettmers et al. 2021 (arXiv 2110.02861).

    >>> form = OffsetIntegers(2)
    >>> form.decode(form.encode(torch.tensor([[0.0, 1.0, 3.0]])), 1, 3)
    tensor([[0., 1., 3.]])
    """

    bits: Annotated[int, Range(1, 8)] = 4
    group: Count = 64  # numbers of a row with one scale, or the row
    rounding: Rounding = Nearest()

    def fit(self, w: Tensor) -> dict[str, Tensor]:
        low, high = w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)
        return {"scale": (high - low) / (2**self.bits - 1), "low": low}

    def nearest(self, w: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        q = (w - fitted["low"][..., None]) / nonzero(fitted["scale"])[..., None]
        return q.round().clamp(0, 2**self.bits - 1).to(torch.uint8)

    def value(self, codes: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        scale = fitted["scale"]
        return codes.to(scale.dtype) * scale[..., None] + fitted["low"][..., None]

    def halves(self, fitted: Mapping[str, Tensor]) -> Tensor:
        return 0.5 * fitted["scale"]


def nonzero(scale: Tensor) -> Tensor:
    """Scales by which can be divided."""
    return scale.clamp(min=torch.finfo(scale.dtype).tiny)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes below 2^bits, uint8 [rows,n], in as many bits: uint8 [rows, bytes].

    The bits are divided into planes of 1, 2 or 4, of which 8, 4 or 2 numbers share a byte.
    """
    planes, at = [], 0
    for width in _planes(bits):
        part = (codes >> at) & (2**width - 1)
        per = 8 // width
        part = torch.nn.functional.pad(part, (0, -part.shape[1] % per)).unflatten(1, (-1, per))
        places = width * torch.arange(per, device=codes.device, dtype=torch.uint8)
        planes.append((part << places).sum(-1, dtype=torch.uint8))
        at += width
    return torch.cat(planes, 1)


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """The codes uint8 [rows,n] of what ``pack`` gave."""
    codes, at, start = None, 0, 0
    for width in _planes(bits):
        per = 8 // width
        count = -(-n // per)
        places = width * torch.arange(per, device=packed.device, dtype=torch.uint8)
        part = (packed[:, start : start + count, None] >> places) & (2**width - 1)
        part = part.flatten(1)[:, :n] << at
        codes = part if codes is None else codes | part
        at, start = at + width, start + count
    assert codes is not None
    return codes


def _planes(bits: int) -> list[int]:
    """Widths of bit planes that fill bytes and sum to ``bits``."""
    return [width for width in (8, 4, 2, 1) if bits & width]
