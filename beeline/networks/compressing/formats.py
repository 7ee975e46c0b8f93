"""Number formats of stored weights: codes of few bits with scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Protocol

import torch
from torch import Tensor

from beeline.core.ranges import Count, Range, dataclass


class Format(Protocol):
    """How a weight [out,in] is stored."""

    def encode(self, w: Tensor) -> dict[str, Tensor]:
        """The stored tensors by name: codes as uint8, and scales."""
        ...

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        """The weight [out,into] that is computed with, in the dtype of the scales."""
        ...

    def bound(self, w: Tensor) -> Tensor:
        """The largest error of every number of a weight [out,in]."""
        ...


@dataclass(frozen=True)
class Integers:
    """Signed integers of few bits, with one scale for every group of numbers along the input.

    w ~ scale q,  scale = max |w| of a group / (2^(bits-1) - 1),  q = round(w / scale);  |error| <= scale / 2
    A number takes bits + 32 / group bits.
    Source: rounding to nearest; groups: Dettmers et al. 2021 (arXiv 2110.02861).

    >>> form = Integers(8)
    >>> form.decode(form.encode(torch.tensor([[1.0, -0.5]])), 1, 2)
    tensor([[ 1.0000, -0.5039]])
    """

    bits: Annotated[int, Range(2, 8)] = 8
    group: Count = 64  # numbers of a row with one scale; the last group of a row may be smaller

    @property
    def top(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1

    def encode(self, w: Tensor) -> dict[str, Tensor]:
        scale = self.scales(w)
        q = (self.grouped(w) / scale[..., None].clamp(min=torch.finfo(w.dtype).tiny)).round()
        return {"codes": pack((q + self.top).to(torch.uint8).flatten(1)[:, : w.shape[1]], self.bits), "scale": scale}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        scale = stored["scale"]
        q = unpack(stored["codes"], self.bits, into).to(scale.dtype) - self.top
        return (self.grouped(q) * scale[..., None]).flatten(1)[:, :into]

    def bound(self, w: Tensor) -> Tensor:
        half = 0.5 * self.scales(w)
        return half.repeat_interleave(self.group, 1)[:, : w.shape[1]]

    def scales(self, w: Tensor) -> Tensor:
        """The scale of every group [out,groups]."""
        return self.grouped(w).abs().amax(-1) / self.top

    def grouped(self, w: Tensor) -> Tensor:
        """Numbers [out,in] in groups [out,groups,group], filled with zeros."""
        return torch.nn.functional.pad(w, (0, -w.shape[1] % self.group)).unflatten(1, (-1, self.group))


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
