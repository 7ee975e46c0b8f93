"""Constraints on the columns of a table, in the units of its columns."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import nearest, require
from beeline.core.modes import wide
from beeline.core.ranges import Positive, Range, dataclass
from beeline.core.types import Cond
from beeline.data.tables.codec.codes import Quantile
from beeline.data.tables.schema import Number
from beeline.data.tables.table import Table
from beeline.sampling.steering.modalities import ModalityDependent


@dataclass(frozen=True)
class Reader:
    """The numbers of one column as a differentiable function of its coordinate.

    v = the polygon through (Phi^-1(rank), value), with the outermost slopes beyond its ends;  a value that repeats has
    the middle of its ranks
    It differs from decoding, which is a step function for columns of few values, by less than their distance.
    """

    place: int  # of the coordinate of the number
    z: tuple[float, ...]  # knots, rising
    v: tuple[float, ...]  # values there, not falling

    @classmethod
    def of(cls, table: Table, name: str) -> Reader:
        """The reader of a column; ValueError for a column without numbers."""
        numbers = [column.name for column in table.columns.columns if isinstance(column, Number)]
        numbers = [column for column in numbers if column in table.coded and table.coded[column].number is not None]
        require(
            name in numbers,
            f"{name!r} is no column with a number of its own, on which a constraint could act (a category, or derived "
            f"from another column, or of few values); {nearest(name, numbers)}",
        )
        place = -1
        for column, code in table.coded.items():
            place += code.width
            if column == name:
                break
        number = table.coded[name].number
        assert number is not None
        if not isinstance(number, Quantile):
            return cls(place, (0.0, 1.0), tuple(float(v) for v in number.value(np.array([0.0, 1.0]))))
        v, first = np.unique(np.array(number.v), return_index=True)
        last = np.append(first[1:], len(number.v)) - 1
        middle = (np.array(number.u)[first] + np.array(number.u)[last]) / 2
        z = torch.special.ndtri(torch.from_numpy(middle).clamp(1e-6, 1 - 1e-6)).numpy()
        rising = np.concatenate([[True], np.diff(z) > 1e-6])
        return cls(place, tuple(z[rising].tolist()), tuple(v[rising].tolist()))

    def __call__(self, x: Tensor) -> Tensor:
        """The numbers [B] of rows [B,D]."""
        x = wide(x[:, self.place])  # in 16 bits neighbouring knots are equal
        z, v = (x.new_tensor(knots) for knots in (self.z, self.v))
        if len(z) == 1:
            return v + 0 * x
        left = (torch.searchsorted(z, x.detach().contiguous()) - 1).clamp(0, len(z) - 2)
        slope = (v[left + 1] - v[left]) / (z[left + 1] - z[left])
        return v[left] + slope * (x - z[left])


class OfColumns(ModalityDependent):
    """Base of energies of columns.

    A subclass is a dataclass with the fields below, and gives ``names`` and ``misfit``.
    """

    deviation: float  # of the constraint, in the units of the columns
    readers: tuple[Reader, ...]  # of the columns; set by the modality of a bundle

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The columns."""

    @abstractmethod
    def misfit(self, values: Tensor) -> Tensor:
        """The distances [B] to what is wanted, of values [columns,B] in the units of the columns."""

    def for_modality(self, modality: Any) -> Any:
        """The energy of the encoded rows of a table."""
        require(
            isinstance(modality, Table),
            f"{type(self).__name__} got {type(modality).__name__} data; it constrains the columns of a table: use "
            "another energy, such as Near",
        )
        readers = tuple(Reader.of(modality, name) for name in self.names)
        return replace(self, readers=readers)  # type: ignore[type-var]

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        if not self.readers:
            self.unbound()
        values = torch.stack([reader(x1) for reader in self.readers])
        return (self.misfit(values) / self.deviation).square() / 2


@dataclass(frozen=True)
class ColumnSum(OfColumns):
    """A wanted weighted sum of columns with numbers.

    E = (sum_c w_c v_c - total)^2 / (2 deviation^2),  v_c the value of column c in its own units
    The values are a smooth version of what decoding gives.  Cells that are decoded as empty count, too.

    >>> ColumnSum({"age": 1.0, "tenure": -1.0}, total=30.0).names
    ('age', 'tenure')
    """

    columns: Mapping[str, float] | Sequence[str]  # the weight of every column; names alone: all 1
    total: Annotated[float, Range()]
    deviation: Positive = 1.0  # of the constraint, in the units of the sum
    readers: tuple[Reader, ...] = ()  # set by the modality of a bundle

    def __post_init__(self) -> None:
        require(
            len(self.columns) > 0 and not isinstance(self.columns, str),
            f"ColumnSum got columns={self.columns!r}; a sum has at least one column: give their names, or a mapping of "
            "names to weights",
        )

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.columns)

    def misfit(self, values: Tensor) -> Tensor:
        weights = self.columns.values() if isinstance(self.columns, Mapping) else [1.0] * len(values)
        return values.new_tensor(list(weights)) @ values - self.total


@dataclass(frozen=True)
class ColumnRange(OfColumns):
    """A wanted range of a column with numbers.

    E = d^2 / (2 deviation^2),  d the distance of its value to [low, high], in the units of the column; 0 inside
    The value is a smooth version of what decoding gives.

    >>> ColumnRange("age", low=18.0).names
    ('age',)
    """

    column: str
    low: Annotated[float, Range()] | None = None  # None is no bound
    high: Annotated[float, Range()] | None = None
    deviation: Positive = 1.0  # of the constraint, in the units of the column
    readers: tuple[Reader, ...] = ()  # set by the modality of a bundle

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        require(
            bool(self.column) and len(bounds) > 0 and bounds == sorted(bounds),
            f"ColumnRange got column={self.column!r}, low={self.low}, high={self.high}; it needs a column and bounds "
            "with low <= high: give both, or one of them",
        )

    @property
    def names(self) -> Sequence[str]:
        return (self.column,)

    def misfit(self, values: Tensor) -> Tensor:
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        return values[0] - values[0].clamp(low, high)
