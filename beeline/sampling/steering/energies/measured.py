"""The misfit to a measurement, the energy of an inverse problem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import check_values
from beeline.core.protocols.steering import FullOperator, Operator
from beeline.core.ranges import Positive, dataclass
from beeline.core.types import Cond
from beeline.sampling.steering.operators.operator import complete_operator


@dataclass(frozen=True)
class Measured:
    """Minus the log-density of measured values under Gaussian noise, without its constant.

    E = |y - A(x1)|^2 / (2 noise^2),  y = A(x1) + noise z,  z ~ N(0, I)
    It is the energy for EnergyGuidance and other controllers of any operator, and the problem that controllers for
    linear operators solve.

    >>> from beeline.sampling.steering.operators.operator import Identity
    >>> float(Measured(Identity(), (1.0, 1.0), noise=0.5)(torch.zeros(1, 2), torch.zeros(1)))
    4.0
    """

    operator: Operator
    values: Any  # y: of the shape of the values of one sample, or of a batch of them: a tensor or nested lists
    noise: Positive = 0.05  # standard deviation of the noise, in the units of the values
    rows: tuple[int, int] | None = None  # rows of values for a batch that are used; None for all

    def for_rows(self, start: int, end: int) -> Measured:
        """The problem of rows start .. end-1 of a batch."""
        first = 0 if self.rows is None else self.rows[0]
        operator = complete_operator(self.operator).for_rows(start, end)
        return replace(self, operator=operator, rows=(first + start, first + end))

    def problem(self, like: Tensor) -> tuple[FullOperator, Tensor]:
        """(operator, values [1,*M] or [B,*M]) for data of the shape, type and device of ``like`` [B,*S].

        Raises ValueError for an operator or values of another shape, and for values that are not finite.
        """
        operator = complete_operator(self.operator).prepared(like)
        shape = operator.apply(like.new_zeros(1, *like.shape[1:]).expand_as(like)).shape
        y = torch.as_tensor(self.values).to(device=like.device, dtype=like.dtype)
        if self.rows is not None and y.ndim == len(shape) and len(y) > 1:
            y = y[self.rows[0] : self.rows[1]]
        require(
            y.shape in (shape, (1, *shape[1:]), shape[1:]),
            f"the measured values have shape {tuple(y.shape)}, and {type(self.operator).__name__} gives values of "
            f"shape {tuple(shape[1:])} for data of shape {tuple(like.shape[1:])}; they are compared number by number: "
            f"give values of shape {tuple(shape[1:])}, or one row of them for each of the {len(like)} samples",
        )
        y = operator.measured(y if y.ndim == len(shape) else y[None])
        check_values(
            y.isfinite().all(),
            lambda: (
                "the measured values contain NaN or an infinite number; what was not measured is left out by a mask: "
                "use Mask(), or correct the values"
            ),
        )
        return operator, y

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        operator, y = self.problem(x1)
        return (y - operator.apply(x1)).square().flatten(1).sum(1) / (2 * self.noise**2)
