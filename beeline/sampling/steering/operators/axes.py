"""Operators along the positions of images [C,H,W] and signals [C,1,L]: means of blocks and blurs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import FullOperator
from beeline.core.ranges import Count, Positive, Whole, dataclass
from beeline.sampling.steering.operators.operator import OperatorBase, grid


class AxesBase(OperatorBase):
    """Base of operators that act along every axis of the positions: a subclass gives the ``matrix`` of an axis."""

    def matrix(self, n: int) -> Tensor:
        """The matrix [m,n] in float64 for an axis of length ``n``."""
        raise NotImplementedError

    def length(self, m: int) -> int:
        """The length of the axis of data for one of ``m`` measured values."""
        return m

    def axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of a datum along which it acts."""
        return grid(shape, type(self).__name__)

    def prepared(self, like: Tensor) -> FullOperator:
        shape = tuple(like.shape[1:])
        made = {i + 1: self.matrix(shape[i]).to(like) for i in self.axes(shape)}
        return _Along(made, self.orthogonal)

    def apply(self, x: Tensor) -> Tensor:
        return self.prepared(x).apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        places = y.shape[2:]
        all_one = max(places, default=0) == 1  # else an axis of length 1 is none of positions
        sizes = [self.length(n) if n > 1 or all_one else n for n in places]
        return self.prepared(y.new_empty(*y.shape[:2], *sizes)).adjoint(y)


class _Along(OperatorBase):
    """Products with a matrix along each of some axes of a batch."""

    def __init__(self, matrices: dict[int, Tensor], orthogonal: bool):
        self.matrices, self.orthogonal = matrices, orthogonal  # type: ignore[misc]

    def apply(self, x: Tensor) -> Tensor:
        for axis, matrix in self.matrices.items():
            x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for axis, matrix in self.matrices.items():
            y = (y.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return y


@dataclass(frozen=True)
class BlockMean(AxesBase):
    """Means of blocks of ``factor`` positions along each axis, for super-resolution.

    (A x)_i = mean of x over block i;  A A' = 1 / factor^d with d axes

    >>> BlockMean(2).apply(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]))
    tensor([[[[4.]]]])
    """

    factor: Count = 2  # of each axis; it divides their lengths
    orthogonal: ClassVar[bool] = True

    def length(self, m: int) -> int:
        return m * self.factor

    def matrix(self, n: int) -> Tensor:
        require(
            n % self.factor == 0,
            f"BlockMean got factor={self.factor} for an axis of length {n}; blocks cover an axis without rest: give a "
            f"divisor, one of {', '.join(str(k) for k in range(1, n + 1) if n % k == 0)}",
        )
        return torch.eye(n // self.factor, dtype=torch.float64).repeat_interleave(self.factor, 1) / self.factor


@dataclass(frozen=True)
class GaussianBlur(AxesBase):
    """A blur with a Gaussian of the given width, for deblurring.

    (A x)_i = sum_j k_ij x_j,  k_ij ~ exp(-(i - j)^2 / (2 width^2)),  sum_j k_ij = 1, along each axis
    Weights of positions outside the image are distributed over those inside, so that its brightness is preserved.

    >>> GaussianBlur(1.0).apply(torch.ones(1, 1, 1, 4))
    tensor([[[[1., 1., 1., 1.]]]])
    """

    width: Positive = 1.0  # standard deviation of the Gaussian, in positions

    def matrix(self, n: int) -> Tensor:
        at = torch.arange(n, dtype=torch.float64)
        weights = torch.exp(-(((at[:, None] - at) / self.width) ** 2) / 2)
        return weights / weights.sum(1, keepdim=True)


@dataclass(frozen=True)
class MotionBlur(AxesBase):
    """The mean of ``extent`` positions along one axis, the blur of a motion.

    (A x)_i = mean of x_j over |j - i| <= (extent - 1) / 2 inside the image

    >>> MotionBlur(3).apply(torch.tensor([[[[0.0, 3.0, 0.0, 0.0]]]]))
    tensor([[[[1.5000, 1.0000, 1.0000, 0.0000]]]])
    """

    extent: Count = 5  # positions, an odd number
    axis: Whole = 0  # 0 is the last axis of positions (along rows), 1 the one before

    def __post_init__(self) -> None:
        require(
            self.extent % 2 == 1,
            f"MotionBlur got extent={self.extent}; the blur is centred on a position: give an odd number",
        )

    def axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        found = grid(shape, "MotionBlur")
        require(
            self.axis < len(found),
            f"MotionBlur got axis={self.axis} for data of shape {shape}, which have {len(found)} axes of positions; "
            f"count them from the last one, below {len(found)}",
        )
        return (found[-1 - self.axis],)

    def matrix(self, n: int) -> Tensor:
        at = torch.arange(n)
        weights = ((at[:, None] - at).abs() <= self.extent // 2).double()
        return weights / weights.sum(1, keepdim=True)
