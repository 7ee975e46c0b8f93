"""Two samples of a table side by side: their columns as numbers, and what figures compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from beeline.core.errors import extra
from beeline.data.tables.codec import columns as cells
from beeline.data.tables.codec.codes import Array
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.infer import named
from beeline.data.tables.schema import Boolean, Category, Datetime, Number, Schema


def columns_of(schema: Schema, real: Any, made: Any) -> dict[str, tuple[Array, Array, bool]]:
    """Per column that is learned: values of both samples, as numbers (NaN where empty) or as places in one list."""
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
    """Places of the cells of both samples in the list of different values, of which an empty cell is one."""
    pd = pandas()
    codes, different = pd.factorize(pd.concat([real, made]).astype(object), use_na_sentinel=False)
    return codes, different


def levels_of(real: Any, made: Any) -> list[str]:
    """The values of a category in both samples, in the order of the places that ``columns_of`` gives."""
    return sorted(map(_word, _factorised(real, made)[1]))


def _word(value: Any) -> str:
    return "" if value is None or value is pandas().NaT or value != value else str(value)


def numbers_of(column: Number | Datetime, raw: Any) -> Array:
    full, empty = cells.full_cells(column, raw)
    made = np.full(len(raw), np.nan)
    made[~empty] = cells.plain(column, full)
    return made


def variation(a: Array, b: Array) -> float:
    """Half the sum of differences of two laws on whole numbers, given by samples."""
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
    """Both samples as numbers: categories one-hot (of length 1 apart where scaled), numbers over their range."""
    parts: list[tuple[Array, Array]] = []
    # numbers first: a classifier that stops early depends on the order of its features, and this one is usual
    for a, b, continuous in sorted(columns_of(schema, real, made).values(), key=lambda part: not part[2]):
        if continuous:
            middle = np.nanmean(a) if not np.isnan(a).all() else 0.0
            pair = [np.where(np.isnan(v), middle, v) for v in (a, b)]
            low, wide = (pair[0].min(), np.ptp(pair[0]) or 1.0) if scaled else (0.0, 1.0)
            parts.append(((pair[0][:, None] - low) / wide, (pair[1][:, None] - low) / wide))
        else:
            eye = np.eye(int(max(a.max(), b.max())) + 1) * (0.5**0.5 if scaled else 1.0)
            parts.append((eye[a], eye[b]))
    return np.concatenate([p for p, _ in parts], 1), np.concatenate([q for _, q in parts], 1)


def ordinal(schema: Schema, reference: Any, rows: Any) -> Array:
    """Rows as numbers for trees: places of levels, and numbers as they are."""
    return np.stack([b if cont else b.astype(float) for _, b, cont in columns_of(schema, reference, rows).values()], 1)


def closest(rows: Array, among: Array, k: int = 1) -> Array:
    """Distance of every row [N,d] to its k-th nearest among others [M,d]: [N]."""
    neighbors = extra("sklearn.neighbors", "tables")
    return np.asarray(neighbors.NearestNeighbors(n_neighbors=k).fit(among).kneighbors(rows)[0][:, -1])
