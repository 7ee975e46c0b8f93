"""Operators that measure some numbers of a datum: known pixels, columns, and the beginning of a sequence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import FullOperator
from beeline.core.ranges import Count, Whole, dataclass
from beeline.sampling.steering.operators.operator import OperatorBase


class MaskBase(OperatorBase):
    """Base of masks, A x = m x: a subclass gives ``mask``."""

    orthogonal: ClassVar[bool] = True

    def mask(self, like: Tensor) -> Tensor:
        """Booleans that broadcast to the data ``like`` [B,*S]: true where a number is known."""
        raise NotImplementedError

    def prepared(self, like: Tensor) -> FullOperator:
        return _Known(self.mask(like).to(like.device))

    def apply(self, x: Tensor) -> Tensor:
        return self.prepared(x).apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.apply(y)

    def measured(self, y: Tensor) -> Tensor:
        return self.apply(y)


class _Known(OperatorBase):
    """A mask of a tensor of booleans."""

    orthogonal: ClassVar[bool] = True

    def __init__(self, known: Tensor):
        self.known = known

    def apply(self, x: Tensor) -> Tensor:
        return torch.where(self.known, x, 0)  # also where the unknown numbers are NaN

    def adjoint(self, y: Tensor) -> Tensor:
        return self.apply(y)

    def measured(self, y: Tensor) -> Tensor:
        return self.apply(y)


@dataclass(frozen=True)
class Mask(MaskBase):
    """Measures the numbers of a mask, for inpainting.

    A x = m x,  m = 1 where a number is known, else 0

    >>> Mask((1, 0)).apply(torch.tensor([[3.0, 4.0]]))
    tensor([[3., 0.]])
    """

    known: Any  # of the shape of a sample, or of trailing axes of it, or of a batch: a tensor or nested lists
    rows: tuple[int, int] | None = None  # rows of a mask for a batch that are used; None for all

    def for_rows(self, start: int, end: int) -> Mask:
        first = 0 if self.rows is None else self.rows[0]
        return replace(self, rows=(first + start, first + end))

    def mask(self, like: Tensor) -> Tensor:
        known = torch.as_tensor(self.known)
        if self.rows is not None and known.ndim == like.ndim and len(known) > 1:
            known = known[self.rows[0] : self.rows[1]]
        shape, sizes = tuple(known.shape), tuple(like.shape)
        require(
            0 < len(shape) <= len(sizes)
            and all(a in (1, b) for a, b in zip(reversed(shape), reversed(sizes), strict=False)),
            f"Mask got a mask of shape {shape} for {len(like)} data of shape {sizes[1:]}; every number of a datum is "
            f"known or not: give a mask of shape {sizes[1:]}",
        )
        return known != 0


@dataclass(frozen=True)
class Columns(MaskBase):
    """Measures some entries of the last axis, such as columns of points, for imputation.

    A x = m x,  m_j = 1 for j among the known columns, else 0

    >>> Columns((1,)).apply(torch.tensor([[3.0, 4.0]]))
    tensor([[0., 4.]])
    """

    known: tuple[Whole, ...]  # indices from 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", tuple(self.known))

    def mask(self, like: Tensor) -> Tensor:
        count = like.shape[-1]
        require(
            self.known and max(self.known) < count,
            f"Columns got the columns {self.known} for data of {count} columns, counted from 0; give at least one "
            f"index, each below {count}",
        )
        known = torch.zeros(count, dtype=torch.bool)
        known[list(self.known)] = True
        return known


@dataclass(frozen=True)
class Beginning(MaskBase):
    """Measures the beginning of a sequence, for forecasts of the rest.

    A x = m x,  m_i = 1 for the first ``length`` entries of the last axis, else 0

    >>> Beginning(1).apply(torch.tensor([[3.0, 4.0]]))
    tensor([[3., 0.]])
    """

    length: Count  # entries of the last axis

    def mask(self, like: Tensor) -> Tensor:
        count = like.shape[-1]
        require(
            self.length < count,
            f"Beginning got length={self.length} for sequences of length {count}, which leaves nothing to forecast; "
            f"give a length below {count}",
        )
        return torch.arange(count) < self.length
