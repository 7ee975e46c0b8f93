"""Cells of text by their distinct values, so that a pattern is matched once per value."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from beeline.data.tables.dtypes import pandas


class DistinctCells(NamedTuple):
    """Cells of text by their distinct values: cell i is distinct[codes[i]]."""

    codes: np.ndarray[Any, Any]
    distinct: Any  # a series, in the order of first appearance
    index: Any  # of the cells, for the rows in messages

    @classmethod
    def of(cls, full: Any) -> DistinctCells:
        codes, distinct = pandas().factorize(full)
        return cls(codes, pandas().Series(np.asarray(distinct, dtype=object)).astype(str), full.index)

    def where(self, good: Any) -> DistinctCells:
        """The cells whose distinct values are ``good``."""
        good = np.asarray(good, dtype=bool)
        kept = good[self.codes]
        number = good.cumsum() - 1
        return DistinctCells(number[self.codes[kept]], self.distinct[good].reset_index(drop=True), self.index[kept])

    def share(self, good: Any) -> float:
        """The share of cells whose distinct values are ``good``."""
        return float(np.asarray(good, dtype=bool)[self.codes].mean())

    def spread(self, values: Any) -> Any:
        """One value per cell, from one per distinct value."""
        return values.take(self.codes).set_axis(self.index)
