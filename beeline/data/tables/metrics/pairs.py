"""The columns of two tables as numbers, for metrics that compare them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot

from beeline.core.errors import extra
from beeline.data.tables.codec import columns as cells
from beeline.data.tables.codec.codes import Array
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.infer import named
from beeline.data.tables.schema import Boolean, Category, Datetime, Number, Schema


def columns_of(schema: Schema, real: Any, made: Any) -> dict[str, tuple[Array, Array, bool]]:
    """For every learned column, the values of both samples: numbers (NaN if empty) or level indices, and which of "
    "them."""
    real, made = named(real), named(made)
    found: dict[str, tuple[Array, Array, bool]] = {}
    for column in schema.columns:
        if isinstance(column, Number | Datetime):
            a, b = (numbers_of(column, part[column.name]) for part in (real, made))
            found[column.name] = (a, b, True)
        elif isinstance(column, Category | Boolean):
            codes, different = _factorised(real[column.name], made[column.name])
            order = np.empty(len(different), dtype=np.int64)
            order[np.argsort([_word(v) for v in different], kind="stable")] = np.arange(len(different))
            codes = order[codes]
            found[column.name] = (codes[: len(real)], codes[len(real) :], False)
    return found


def _factorised(real: Any, made: Any) -> tuple[Array, Any]:
    """Indices of the cells of both samples in their distinct values, one of which is the empty cell."""
    pd = pandas()
    codes, different = pd.factorize(pd.concat([real, made]).astype(object), use_na_sentinel=False)
    return codes, different


def levels_of(real: Any, made: Any) -> list[str]:
    """The values of a category in both samples, in the order of the indices of ``columns_of``."""
    return sorted(map(_word, _factorised(real, made)[1]))


def _word(value: Any) -> str:
    return "" if value is None or value is pandas().NaT or value != value else str(value)


def numbers_of(column: Number | Datetime, raw: Any) -> Array:
    full, empty = cells.full_cells(column, raw)
    made = np.full(len(raw), np.nan)
    made[~empty] = cells.plain(column, full)
    return made


def variation(a: Array, b: Array) -> float:
    """Total variation distance between two samples of integers."""
    both, place = np.unique(np.concatenate([a, b]), return_inverse=True)
    p, q = (np.bincount(part, minlength=len(both)) / len(part) for part in (place[: len(a)], place[len(a) :]))
    return float(np.abs(p - q).sum() / 2)


def bins(values: Array) -> Array:
    known = values[~np.isnan(values)]
    return np.digitize(values, np.histogram_bin_edges(known if len(known) else np.zeros(1))).astype(np.int64)


def correlation(a: Array, b: Array) -> float:
    use = ~(np.isnan(a) | np.isnan(b))
    a, b = a[use], b[use]
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def features(schema: Schema, real: Any, made: Any, scaled: bool = True) -> tuple[Array, Array]:
    """Both samples as numbers: one-hot categories (at distance 1 if scaled), numbers divided by their range."""
    parts: list[tuple[Array, Array]] = []
    # numbers first: a classifier with early stopping depends on the order of its features
    for a, b, continuous in sorted(columns_of(schema, real, made).values(), key=lambda part: not part[2]):
        if continuous:
            middle = np.nanmean(a) if not np.isnan(a).all() else 0.0
            pair = [np.where(np.isnan(v), middle, v) for v in (a, b)]
            low, wide = (pair[0].min(), np.ptp(pair[0]) or 1.0) if scaled else (0.0, 1.0)
            parts.append(((pair[0][:, None] - low) / wide, (pair[1][:, None] - low) / wide))
        else:
            levels = int(max(a.max(), b.max())) + 1
            one, other = (one_hot(torch.from_numpy(v), levels).double().numpy() for v in (a, b))
            parts.append((one * 0.5**0.5, other * 0.5**0.5) if scaled else (one, other))
    return np.concatenate([p for p, _ in parts], 1), np.concatenate([q for _, q in parts], 1)


def ordinal(schema: Schema, reference: Any, rows: Any) -> Array:
    """Rows as numbers for decision trees: level indices, and numbers unchanged."""
    return np.stack([b if cont else b.astype(float) for _, b, cont in columns_of(schema, reference, rows).values()], 1)


def closest(rows: Array, among: Array, k: int = 1) -> Array:
    """Distance of every row [N,d] to its k-th nearest among others [M,d]: [N]."""
    neighbors = extra("sklearn.neighbors", "tables")
    return np.asarray(neighbors.NearestNeighbors(n_neighbors=k).fit(among).kneighbors(rows)[0][:, -1])
