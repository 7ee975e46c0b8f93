"""Cells of a column: from what stands in a data frame to values that can be coded, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from beeline.core.types import BeelineError, nearest, require
from beeline.data.codes import SPIKE, SPIKES, Array, Code, Quantile, Standard
from beeline.data.infer import levels, nanoseconds, pandas
from beeline.data.schema import UNITS, Boolean, Category, Column, Constant, Identifier, Moment, Number, listed

GIVEN, EMPTY = "given", None
"""The two states of a number that may be empty."""


def values(column: Column, raw: Any) -> tuple[Column, Array, Array]:
    """A column completed from its data, its values where it is not empty, and where it is empty [N]."""
    if isinstance(column, Constant | Identifier):
        return column, np.zeros(0), np.zeros(len(raw), dtype=bool)
    full, empty = full_cells(column, raw)
    column = replace(column, missing=bool(empty.any()))
    if isinstance(column, Category) and not column.levels:
        column = replace(column, levels=levels(full))
    if isinstance(column, Moment) and column.low is None:
        column = replace(column, low=str(_moments(column, full).min()), high=str(_moments(column, full).max()))
    made = plain(column, full)
    if isinstance(column, Number):
        column = replace(
            column,
            low=float(made.min()) if column.low is None else column.low,
            high=float(made.max()) if column.high is None else column.high,
        )
    return column, made, empty


def full_cells(column: Column, raw: Any) -> tuple[Any, Array]:
    """The cells that are not empty, and where they are empty [N]."""
    empty = raw.isna().to_numpy()
    if column.marker is not None:
        empty = empty | (raw == column.marker).to_numpy(dtype=bool)
    return raw[~empty], empty


def plain(column: Column, full: Any) -> Array:
    """Values as numbers: numbers themselves, the units that moments count, the places of levels (-1: unknown)."""
    pd = pandas()
    if isinstance(column, Number):
        if column.before or column.after:
            full = full.astype(str).str.removeprefix(column.before).str.removesuffix(column.after)
        made = pd.to_numeric(full, errors="coerce").to_numpy(dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(made))
        require(
            not len(bad),
            f"column {column.name!r} holds {listed(repr(full.iloc[i]) for i in bad[:3])} in row "
            f"{listed(int(full.index[i]) + 1 for i in bad)}, which is no finite number; correct these cells, or write "
            "them as empty",
        )
        return np.asarray(made)
    if isinstance(column, Moment):
        origin = nanoseconds(pd.Series([_stamp(column)]))[0]
        return np.asarray((nanoseconds(_moments(column, full)) - origin) // UNITS[column.unit][1], dtype=np.float64)
    known = {level: i for i, level in enumerate(_levels(column))}
    return np.array([known.get(_same(v), -1) for v in full], dtype=np.int64)


def learn(column: Column, made: Array, empty: Array, one_hot: int) -> Code:
    """The code of a column."""
    if isinstance(column, Constant | Identifier):
        return Code()
    if isinstance(column, Category | Boolean):
        states = (*_levels(column), *((EMPTY,) if column.missing else ()))
        return Code(states, bits=len(states) > one_hot)
    standard = isinstance(column, Number) and column.standard
    if isinstance(column, Number) and not column.standard and spiked(made):
        return Code((*np.unique(made).tolist(), *((EMPTY,) if column.missing else ())))
    require(len(made) > 0, f"column {column.name!r} is empty in every row; leave it out, or make it a category")
    number: Quantile | Standard = Standard.fit(made) if standard else Quantile.fit(made)
    return Code((GIVEN, EMPTY) if empty.any() else (), number)


def spiked(values: Array) -> bool:
    """Whether numbers are few different ones, one of which is frequent: amounts that are mostly zero, hours of work."""
    different, counts = np.unique(values, return_counts=True)
    return 1 < len(different) <= min(SPIKES, len(values) / 20) and counts.max() >= SPIKE * len(values)


def place(column: Column, code: Code, raw: Any) -> tuple[Array, Array]:
    """States [N] and intervals [N,2] of cells."""
    full, empty = full_cells(column, raw)
    require(
        not empty.any() or EMPTY in code.levels,
        f"column {column.name!r} is empty in row {listed(np.flatnonzero(empty) + 1)}, but was not in training; "
        "fill these cells, or train on a table with empty cells",
    )
    state, span = np.zeros(len(raw), dtype=np.int64), np.tile([0.0, 1.0], (len(raw), 1))
    made = plain(column, full)
    if code.number is None and isinstance(column, Number):  # a value that training never saw is the nearest that it saw
        known = np.array([level for level in code.levels if level is not EMPTY])
        state[~empty] = np.abs(made[:, None] - known).argmin(1) if len(known) else 0
        state[empty] = len(code.levels) - 1
        return state, span
    if code.number is None:
        lost = made < 0
        if lost.any():
            odd, row = full.iloc[int(np.argmax(lost))], int(np.flatnonzero(~empty)[np.argmax(lost)]) + 1
            raise BeelineError(
                f"column {column.name!r} holds {odd!r} in row {row}, which "
                f"never occurred in training; {nearest(str(odd), _some(map(str, _levels(column)), str(odd)))}",
            )
        state[~empty] = made
        state[empty] = len(code.levels) - 1
        return state, span
    state[empty] = 1 if EMPTY in code.levels else 0
    if isinstance(code.number, Quantile):
        span[~empty] = code.number.span(made)
    else:
        z = (made - code.number.mean) / code.number.deviation
        span[~empty], span[empty] = np.stack([z, z], 1), np.nan
    return state, span


def within(column: Column, raw: Any) -> None:
    """Refuse numbers and moments beyond the bounds of their column."""
    if not isinstance(column, Number | Moment):
        return
    full, _ = full_cells(column, raw)
    made = plain(column, full)
    low, high = _bounds(column)
    beyond = (made < low) | (made > high)
    if beyond.any():
        raise BeelineError(
            f"{column.name}={full.iloc[int(np.argmax(beyond))]} was asked for, outside the bounds {column.low} to "
            f"{column.high} of the table; nothing was learned there: ask within the bounds, or train on more data"
        )


def write(column: Column, code: Code, state: Array, numbers: Array) -> Any:
    """A series in the user's own form."""
    pd = pandas()
    empty = np.array([level is EMPTY for level in code.levels] or [False])[state]
    if isinstance(column, Category | Boolean):
        known = np.empty(len(code.levels), dtype=object)
        known[:] = code.levels
        return _typed(column, pd.Series(known[state], dtype=object), empty)
    if isinstance(column, Moment):
        low, high = _bounds(column)
        count = np.clip(np.rint(numbers), low, high).astype(np.int64) * UNITS[column.unit][1]
        moments = pd.Series(nanoseconds(pd.Series([_stamp(column)]))[0] + count).astype("datetime64[ns]")
        if column.format is not None:
            return _typed(column, moments.dt.strftime(column.format).astype(object), empty)
        if "," in column.dtype:
            moments = moments.dt.tz_localize("UTC")
        return moments.astype(column.dtype).mask(empty)
    assert isinstance(column, Number)
    if code.number is None:
        numbers = np.array([0.0 if level is EMPTY else level for level in code.levels])[state]
    low, high = _bounds(column)
    made = np.clip(np.round(numbers, column.decimals) if column.decimals is not None else numbers, low, high)
    text = column.marker is not None or bool(column.before or column.after)
    if not column.integer:
        if not text:
            return pd.Series(made).astype(column.dtype if column.dtype.startswith("float") else "float64").mask(empty)
        form = f".{column.decimals}f" if column.decimals is not None else ".6g"
        cells = [f"{column.before}{v:{form}}{column.after}" for v in made]
        return _typed(column, pd.Series(cells, dtype=object), empty)
    whole = np.clip(np.rint(numbers), np.ceil(low), np.floor(high)).astype(np.int64)
    if text:
        cells = [f"{column.before}{v}{column.after}" for v in whole]
        return _typed(column, pd.Series(cells, dtype=object), empty)
    series = pd.Series(whole)
    if not empty.any():
        return series.astype(column.dtype) if column.dtype and column.dtype != "object" else series
    return series.astype("Int64" if column.dtype.lower().startswith(("int", "uint")) else "float64").mask(empty)


def fixed(column: Column, n: int) -> Any:
    """A column that is not learned: a constant, or fresh numbers."""
    pd = pandas()
    if isinstance(column, Identifier):
        numbers = pd.Series(np.arange(1, n + 1))
        return numbers.map(f"{column.name}-{{:07d}}".format) if column.text else numbers
    assert isinstance(column, Constant)
    series = pd.Series([column.value] * n, dtype=object)
    return series.astype(column.dtype) if column.dtype and column.value is not None else series


def twins(columns: Sequence[Column], raw: Any) -> dict[str, tuple[str, list[list[Any]]]]:
    """Columns that are another name of an earlier one: one-to-one in every row, with three values or more."""
    pd = pandas()
    candidates = []
    for column in columns:
        if isinstance(column, Category | Number) and not column.missing:
            codes, different = pd.factorize(raw[column.name])
            if 3 <= len(different) <= 200 and len(different) <= len(raw) / 5:
                candidates.append((column, codes, different))
    found: dict[str, tuple[str, list[list[Any]]]] = {}
    for i, (column, codes, different) in enumerate(candidates):
        for other, others, known in candidates[:i]:
            if other.name in found or len(known) != len(different):
                continue
            pairs = np.unique(np.stack([others, codes], 1), axis=0)
            # words may stand for numbers; two columns of numbers that agree by chance are left alone
            if len(pairs) == len(different) and isinstance(other, Category) | isinstance(column, Category):
                if isinstance(other, Number):  # the category stays, the number is written from it
                    found[other.name] = (column.name, [[_same(different[b]), _same(known[a])] for a, b in pairs])
                else:
                    found[column.name] = (other.name, [[_same(known[a]), _same(different[b])] for a, b in pairs])
                break
    return found


def follow(column: Column, given: Any, pairs: list[list[Any]], known: Any = None) -> Any:
    """The values of a column that another one determines."""
    table = {a: b for a, b in pairs}
    asked = given if known is None else given[known]
    told = asked.astype(object).map(table)
    if told.isna().any():
        odd = str(asked[told.isna()].iloc[0])
        raise BeelineError(
            f"{odd!r} was given for a column that determines {column.name!r}, but never occurred in training; "
            f"{nearest(odd, map(str, table))}"
        )
    series = told.reindex(given.index).astype(object)
    plain_cells = known is not None or not column.dtype
    return series if plain_cells else _typed(column, series, np.zeros(len(series), dtype=bool))


def _levels(column: Column) -> tuple[Any, ...]:
    return column.levels if isinstance(column, Category) else (False, True)


def _bounds(column: Column) -> tuple[float, float]:
    if isinstance(column, Moment):
        pd = pandas()
        ends = nanoseconds(pd.Series(pd.to_datetime([column.low, column.high])))
        return 0.0, float((ends[1] - ends[0]) // UNITS[column.unit][1])
    assert isinstance(column, Number) and column.low is not None and column.high is not None
    return column.low, column.high


def _moments(column: Moment, full: Any) -> Any:
    pd = pandas()
    if pd.api.types.is_datetime64_any_dtype(full.dtype):
        return full
    require(
        not pd.api.types.is_numeric_dtype(full.dtype),
        f"column {column.name!r} was to hold moments, but holds numbers; convert them with pandas.to_datetime, which "
        "knows their unit, or keep it a number",
    )
    made = pd.to_datetime(full, format=column.format, errors="coerce")
    bad = np.flatnonzero(made.isna())
    require(
        not len(bad),
        f"column {column.name!r} holds {listed(repr(full.iloc[i]) for i in bad[:3])}, which is no moment written as "
        f"{column.format}; correct these cells, or give the format in the schema",
    )
    return made


def _stamp(column: Moment) -> Any:
    return pandas().Timestamp(column.low)


def _typed(column: Column, series: Any, empty: Array) -> Any:
    """A series of objects in the type of its column, with its mark where it is empty."""
    if empty.any():
        series = series.where(~empty, column.marker)
    elif column.dtype == "bool" or column.dtype.startswith(("int", "uint", "float")):
        return series.astype(column.dtype)
    return series.astype(column.dtype) if column.dtype in ("str", "string", "category", "boolean") else series


def _same(value: Any) -> Any:
    """A value as plain Python, so that equals are equal whatever library they came from."""
    return value.item() if isinstance(value, np.generic) else value


def _some(names: Any, near: str, most: int = 12) -> list[str]:
    """The names that are shown for a column of many levels: those nearest to what was asked for."""
    import difflib

    every = list(names)
    return every if len(every) <= most else difflib.get_close_matches(near, every, n=most, cutoff=0.0)
