"""The base of operators, and those that need no numbers."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from beeline.core.declared import missing
from beeline.core.errors import require
from beeline.core.protocols.steering import FullOperator, LinearOperator, Operator
from beeline.core.ranges import dataclass


class OperatorBase:
    """Base of linear operators: one for data of any shape, whose rows are not orthogonal."""

    linear: ClassVar[bool] = True
    orthogonal: ClassVar[bool] = False

    def apply(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def adjoint(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def prepared(self, like: Tensor) -> FullOperator:
        return self

    def measured(self, y: Tensor) -> Tensor:
        return y

    def for_rows(self, start: int, end: int) -> FullOperator:
        return self


class _Completed(OperatorBase):
    """An operator of one or two members, with the defaults of the others."""

    def __init__(self, operator: Any, linear: bool):
        self.operator, self.linear = operator, linear  # type: ignore[misc]

    def apply(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.operator.apply(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return cast(Tensor, self.operator.adjoint(y))


def complete_operator(operator: Operator) -> FullOperator:
    """The operator with all members of a FullOperator; one without ``adjoint`` is not linear."""
    if isinstance(operator, OperatorBase):
        return operator
    return _Completed(operator, not missing(operator, LinearOperator))


@dataclass(frozen=True)
class Identity(OperatorBase):
    """Measures every number, for noisy data.

    A x = x

    >>> import torch
    >>> Identity().apply(torch.ones(1, 2))
    tensor([[1., 1.]])
    """

    orthogonal: ClassVar[bool] = True

    def apply(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class Magnitudes(OperatorBase):
    """Magnitudes of the values of another operator, as in measurements without phase or sign.

    A(x) = |B x|
    It is not linear: controllers for linear operators refuse it, those that follow an energy take it.

    >>> import torch
    >>> Magnitudes(Identity()).apply(torch.tensor([[-1.0, 2.0]]))
    tensor([[1., 2.]])
    """

    operator: Operator
    linear: ClassVar[bool] = False

    def prepared(self, like: Tensor) -> FullOperator:
        return Magnitudes(complete_operator(self.operator).prepared(like))

    def for_rows(self, start: int, end: int) -> FullOperator:
        return Magnitudes(complete_operator(self.operator).for_rows(start, end))

    def measured(self, y: Tensor) -> Tensor:
        return complete_operator(self.operator).measured(y)

    def apply(self, x: Tensor) -> Tensor:
        return self.operator.apply(x).abs()


def grid(shape: tuple[int, ...], whose: str) -> tuple[int, ...]:
    """The axes of the positions of a datum [C,*grid], without those of length 1; ValueError where it has none."""
    axes = tuple(i for i in range(1, len(shape)) if shape[i] > 1)
    require(
        axes,
        f"{whose} got data of shape {shape}; it measures along the positions of images [C,H,W] and signals [C,1,L]: "
        "use it on such data, or Mask() or Columns() on rows of a table",
    )
    return axes
