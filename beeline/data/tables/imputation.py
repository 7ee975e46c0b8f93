"""Imputation: empty cells sampled from their distribution given the other cells of the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.types import Cond, leaves
from beeline.data.tables.infer import named
from beeline.data.tables.table import Table

ATTEMPTS = 20  # samples of a cell that comes back empty

Draw = Callable[[Any, int], Tensor]
"""(partial rows, attempt) -> coordinates [N,D] of complete rows."""


def held(table: Table, cond: Cond, x1: Tensor) -> Tensor:
    """Coordinates [N,D] with those of known cells, whose condition is ``cond``."""
    given: dict[str, Tensor] = dict(leaves(cond))
    wide = torch.tensor([code.width for code in table.coded.values()])
    return torch.where(given["mask"].repeat_interleave(wide, 1) > 0, given["known"], x1)


def fill(table: Table, frame: Any, draw: Draw) -> Any:
    """The rows of a data frame with every empty cell filled.

    A cell whose sample is empty too is sampled again, ``ATTEMPTS`` times in all; the last one takes the most likely
    value that is not empty.
    """
    for name in frame.columns:
        table.columns[str(name)]  # refuses an unknown column
    columns = [c for c in table.columns.columns if c.na_token is not None and c.name in frame.columns]
    tokens = {c.name: c.na_token for c in columns}
    gaps = frame.isna()
    for name, token in tokens.items():
        gaps[name] |= frame[name] == token
    made, todo = frame.copy(), gaps.any(axis=1).to_numpy().nonzero()[0]
    for attempt in range(ATTEMPTS):
        if not len(todo):
            break
        part = frame.iloc[todo].reset_index(drop=True).where(~gaps.iloc[todo].reset_index(drop=True))
        drawn = table.decode(draw(part, attempt), full=attempt == ATTEMPTS - 1)
        left = np.zeros(len(todo), dtype=bool)
        for name in frame.columns:
            gap = gaps[name].to_numpy()[todo]
            if gap.any():
                new = drawn[name]
                made[name] = made[name].astype(object)
                made.iloc[todo[gap], made.columns.get_loc(name)] = new[gap].astype(object).to_numpy()
                empty = new.isna() | ((new == tokens[name]) if name in tokens else False)
                left |= gap & empty.to_numpy(dtype=bool)
        todo = todo[left]
    like = named(table.decode(torch.zeros(1, *table.shape))).dtypes
    for name in frame.columns:  # integer columns with empty cells were read as float
        if not made[name].isna().any() and table.columns[name].dtype not in ("", "object"):
            made[name] = made[name].infer_objects().astype(like[name])
    made.index = frame.index
    return made
