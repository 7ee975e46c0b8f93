"""Operators given by a matrix: random projections for compressed sensing, and any other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import FullOperator
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.sampling.steering.operators.operator import OperatorBase


@dataclass(frozen=True)
class Matrix(OperatorBase):
    """Measures by a matrix.

    A x = M x, with the numbers of a datum in one row

    >>> Matrix(((1.0, 2.0),)).apply(torch.tensor([[3.0, 4.0]]))
    tensor([[11.]])
    """

    values: Any  # [M, numbers of a datum], a tensor or nested lists
    shape: tuple[Count, ...] = ()  # of a datum; () for a row of numbers

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        values = torch.as_tensor(self.values)
        require(
            values.ndim == 2 and (not self.shape or values.shape[1] == math.prod(self.shape)),
            f"Matrix got values of shape {tuple(values.shape)} for data of shape {self.shape or '[D]'}; it has one "
            "column for each number of a datum: give [M, numbers], one row for each measured value",
        )

    def prepared(self, like: Tensor) -> FullOperator:
        values = torch.as_tensor(self.values).to(like)
        shape = self.shape or (values.shape[1],)
        _check(like, shape, "Matrix")
        return _Product(values, shape)

    def apply(self, x: Tensor) -> Tensor:
        return self.prepared(x).apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        values = torch.as_tensor(self.values).to(y)
        return _Product(values, self.shape or (values.shape[1],)).adjoint(y)


@dataclass(frozen=True)
class Projections(OperatorBase):
    """Random projections, for compressed sensing.

    A x = M x,  M_ij ~ N(0, 1 / n) with n numbers in a datum and the random key ``rng``
    Source: Donoho 2006, "Compressed sensing".

    >>> Projections(2, (1, 2, 2)).apply(torch.ones(3, 1, 2, 2)).shape
    torch.Size([3, 2])
    """

    count: Count  # measured values
    shape: tuple[Count, ...]  # of a datum
    rng: Rng = Rng(0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    def prepared(self, like: Tensor) -> FullOperator:
        _check(like, self.shape, "Projections")
        return self._product(like)

    def apply(self, x: Tensor) -> Tensor:
        return self.prepared(x).apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._product(y).adjoint(y)

    def _product(self, like: Tensor) -> _Product:
        n = math.prod(self.shape)
        values = self.rng.fork("projections").normal(like.new_empty(self.count, n)) / math.sqrt(n)
        return _Product(values, self.shape)


class _Product(OperatorBase):
    """Products with a matrix [M,n] of data of one shape."""

    def __init__(self, values: Tensor, shape: tuple[int, ...]):
        self.values, self.shape = values, shape

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.values.T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.values).reshape(-1, *self.shape)


def _check(like: Tensor, shape: tuple[int, ...], whose: str) -> None:
    require(
        tuple(like.shape[1:]) == shape,
        f"{whose} for data of shape {shape} got data of shape {tuple(like.shape[1:])}; every number of a datum has one "
        "column: give the shape of the data",
    )
