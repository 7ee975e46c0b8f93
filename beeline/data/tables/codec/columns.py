"""Cells of a column as values that can be encoded, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, nearest, require
from beeline.data.tables.codec import timestamps as stamps
from beeline.data.tables.codec.codes import SPIKE, SPIKES, Array, Code, Quantile, Standard
from beeline.data.tables.dtypes import bare, loose, pandas, restored
from beeline.data.tables.infer import digits, levels
from beeline.data.tables.schema import EXACT, Boolean, Category, Column, Constant, Datetime, Identifier, Number, listed

GIVEN, EMPTY = "given", None
"""The two states of a number that may be empty."""


def values(column: Column, raw: Any) -> tuple[Column, Array, Array]:
    """(column completed from its data, values of its non-empty cells, mask [N] of empty cells)."""
    if isinstance(column, Constant | Identifier):
        return column, np.zeros(0), np.zeros(len(raw), dtype=bool)
    full, empty = full_cells(column, raw)
    column = replace(column, missing=bool(empty.any()))
    if isinstance(column, Category) and not column.levels:
        column = replace(column, levels=levels(full))
    if isinstance(column, Datetime) and column.low is None:
        column = replace(column, low="1970-01-01", unit="us")
        made = stamps.counts(column, full)
        ends = stamps.described(made.astype(np.int64), False) if len(made) else {}
        column = replace(column, **ends)
    made = plain(column, full)
    if isinstance(column, Number) and len(made):
        column = replace(
            column,
            low=float(made.min()) if column.low is None else column.low,
            high=float(made.max()) if column.high is None else column.high,
        )
    return column, made, empty


def full_cells(column: Column, raw: Any) -> tuple[Any, Array]:
    """(non-empty cells, mask [N] of empty cells)."""
    raw = loose(raw)
    empty = raw.isna().to_numpy(dtype=bool)
    if column.na_token is not None:
        empty = empty | (raw == column.na_token).fillna(False).to_numpy(dtype=bool)
    return raw[~empty], empty


def plain(column: Column, full: Any) -> Array:
    """Values as numbers: numbers unchanged, datetimes as counts of units, categories as level indices (-1: unknown)."""
    if isinstance(column, Number):
        return _numbers(column, full)
    if isinstance(column, Datetime):
        return stamps.counts(column, full)
    known = {level: i for i, level in enumerate(_levels(column))}
    codes, different = pandas().factorize(full)
    return np.array([known.get(bare(v), -1) for v in different], dtype=np.int64)[codes]


def _numbers(column: Number, full: Any) -> Array:
    """Numbers as float64; integers of more than 53 bits relative to the origin of their column."""
    pd = pandas()
    words = np.array([isinstance(v, str) for v in full], dtype=bool) if full.dtype == object else np.zeros(0, bool)
    if words.any():  # numbers among text are as they are: 5.5 in a column that writes 5,5
        plain_text = digits(full[words].astype(str), column.before, column.after, column.thousands, column.decimal)
        full = full.copy()
        full[words] = plain_text.astype(object)
    if column.origin:
        made = np.array([_less(v, column.origin) for v in full], dtype=np.float64)
    elif full.dtype == object:
        made = np.array([_float(v) for v in full], dtype=np.float64)
    else:
        made = pd.to_numeric(full, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(made))
    require(
        not len(bad),
        f"column {column.name!r} holds {listed(repr(full.iloc[i])[:60] for i in bad[:3])} in row "
        f"{listed(int(full.index[i]) + 1 for i in bad)}, which is no finite number; correct these cells, or write "
        "them as empty",
    )
    return np.asarray(made)


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _less(value: Any, origin: int) -> float:
    """value - origin, exact for whole numbers."""
    try:
        return float(int(value) - origin)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


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
    """Whether numbers have few distinct values, one of them frequent, such as amounts that are mostly zero."""
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
    if code.number is None and isinstance(column, Number):  # an unseen value is mapped to the nearest known one
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


def condition_value(column: Column, value: Any) -> Any:
    """A value of a condition in the type of the column; text of a command line is parsed by the column's kind."""
    if isinstance(column, Category | Boolean):
        known = {str(level): level for level in _levels(column)}
        if isinstance(column, Boolean) and isinstance(value, str):
            known |= {"true": True, "false": False}
        plain_value = bare(value)
        if plain_value in _levels(column) and isinstance(plain_value, str) == any(
            isinstance(level, str) for level in _levels(column)
        ):
            return value
        value = known.get(str(plain_value), value)
    elif isinstance(value, str) and value != column.na_token and not value.strip():
        return None
    return None if isinstance(value, str) and value in ("null", "") and value not in _words(column) else value


def _words(column: Column) -> tuple[Any, ...]:
    return _levels(column) if isinstance(column, Category | Boolean) else (column.na_token,)


def within(column: Column, raw: Any) -> None:
    """Refuse numbers and datetimes beyond the bounds of their column, and fractions in integer columns."""
    if not isinstance(column, Number | Datetime):
        return
    full, _ = full_cells(column, raw)
    made = plain(column, full)
    low, high = _bounds(column)
    beyond = (made < low) | (made > high)
    if beyond.any():
        raise BeelineError(
            f"{column.name}={full.iloc[int(np.argmax(beyond))]} is outside the bounds {column.low} to "
            f"{column.high} of the training data; give a value within the bounds, or train on more data"
        )
    broken = made != np.rint(made)
    if isinstance(column, Number) and column.integer and broken.any():
        raise BeelineError(
            f"{column.name}={full.iloc[int(np.argmax(broken))]} is no integer, but the column holds whole numbers; "
            "give a whole number"
        )


def write(column: Column, code: Code, state: Array, numbers: Array) -> Any:
    """Decoded cells as a series in the type of the column."""
    pd = pandas()
    empty = np.array([level is EMPTY for level in code.levels] or [False])[state]
    if isinstance(column, Category | Boolean):
        known = np.empty(len(code.levels), dtype=object)
        known[:] = code.levels
        return _typed(column, pd.Series(known[state], dtype=object), empty)
    if isinstance(column, Datetime):
        return stamps.written(column, numbers, empty)
    assert isinstance(column, Number)
    if code.number is None:
        numbers = np.array([0.0 if level is EMPTY else level for level in code.levels])[state]
    low, high = _bounds(column)
    if not column.integer:
        made = np.clip(np.round(numbers, column.decimals) if column.decimals is not None else numbers, low, high)
        cells = pd.Series(made)
        if column.textual:
            return _typed(column, pd.Series([_shown(column, v) for v in made], dtype=object), empty)
        if column.dtype in ("Decimal",) or column.dtype.startswith("decimal"):
            cells = pd.Series([f"{v:.{column.decimals or 0}f}" for v in made], dtype=object)
        return _numeric(column, cells, empty)
    whole = np.clip(np.rint(numbers), np.ceil(low), np.floor(high))
    if column.origin or np.abs(whole).max(initial=0) > EXACT:  # beyond float64: whole numbers of Python
        least, most = int(column.low or 0), int(column.high or 0)
        cells = pd.Series([min(max(column.origin + int(v), least), most) for v in whole], dtype=object)
    else:
        cells = pd.Series(whole.astype(np.int64))
    if column.textual:
        return _typed(column, pd.Series([_shown(column, int(v)) for v in cells], dtype=object), empty)
    return _numeric(column, cells, empty)


def exact(column: Column, code: Code, given: Any) -> Any:
    """Given cells in the type of the column, with their exact values."""
    if not isinstance(column, Number | Datetime):
        return write(column, code, place(column, code, given)[0], np.zeros(0))
    full, empty = full_cells(column, given)
    numbers = np.zeros(len(given))
    numbers[~empty] = plain(column, full)
    return write(column, Code((GIVEN, EMPTY), Standard(0.0, 1.0)), empty.astype(np.int64), numbers)


def _shown(column: Number, value: float) -> str:
    """A number in the text format of the column."""
    if column.decimals is None:
        text = repr(float(value))
    else:
        text = f"{value:,.{0 if column.integer else column.decimals}f}"
        body, _, fraction = text.partition(".")
        fraction = fraction.rstrip("0").ljust(column.least, "0")
        text = f"{body}.{fraction}" if fraction else body
    text = text.replace(",", "\0").replace(".", column.decimal).replace("\0", column.thousands)
    return f"{column.before}{text}{column.after}"


def _numeric(column: Number, cells: Any, empty: Array) -> Any:
    """Numbers in the type of their column, with missing values."""
    if not empty.any():
        return restored(cells, column.dtype) if column.dtype not in ("", "object") else cells
    if column.dtype in ("", "object") or column.dtype.startswith("float"):
        gaps = cells.astype("float64" if column.dtype in ("", "object") else column.dtype).mask(empty)
        return gaps if column.dtype else gaps.astype("Int64") if column.integer else gaps
    return restored(cells.astype(object).where(~empty, None), column.dtype)


def fixed(column: Column, n: int) -> Any:
    """A column that is not learned: a constant, or new identifiers."""
    pd = pandas()
    if isinstance(column, Identifier):
        numbers = pd.Series(np.arange(1, n + 1))
        if column.text:
            return restored(numbers.map(f"{column.name}-{{:07d}}".format).astype(object), _text_type(column.dtype))
        return restored(numbers, column.dtype) if column.dtype.lower().startswith(("int", "uint", "float")) else numbers
    assert isinstance(column, Constant)
    series = pd.Series([column.value] * n, dtype=object)
    return restored(series, column.dtype) if column.dtype and column.value is not None else series


def _text_type(dtype: str) -> str:
    return dtype if dtype in ("str", "string") or "string" in dtype else ""


def functional_dependencies(columns: Sequence[Column], raw: Any) -> dict[str, tuple[str, list[list[Any]]]]:
    """Columns in one-to-one correspondence with another one, with three or more values."""
    pd = pandas()
    candidates = []
    for column in columns:
        if isinstance(column, Category | Number) and not column.missing:
            codes, different = pd.factorize(loose(raw[column.name]))
            if 3 <= len(different) <= 200 and len(different) <= len(raw) / 5:
                candidates.append((column, codes, [bare(value) for value in different]))
    found: dict[str, tuple[str, list[list[Any]]]] = {}
    for i, (column, codes, different) in enumerate(candidates):
        for other, others, known in candidates[:i]:
            if other.name in found or len(known) != len(different):
                continue
            pairs = np.unique(np.stack([others, codes], 1), axis=0)
            # not for two columns of numbers, which may agree by chance
            if len(pairs) == len(different) and isinstance(other, Category) | isinstance(column, Category):
                if isinstance(other, Number):  # the number is derived from the category
                    found[other.name] = (column.name, [[bare(different[b]), bare(known[a])] for a, b in pairs])
                else:
                    found[column.name] = (other.name, [[bare(known[a]), bare(different[b])] for a, b in pairs])
                break
    return found


def follow(column: Column, given: Any, pairs: list[list[Any]], known: Any = None) -> Any:
    """The values of a column that another one determines."""
    table = {a: b for a, b in pairs}
    values = loose(given if known is None else given[known])
    found = values.map(bare).astype(object).map(table)
    if found.isna().any():
        odd = str(values[found.isna()].iloc[0])
        raise BeelineError(
            f"{odd!r} was given for a column that determines {column.name!r}, but never occurred in training; "
            f"{nearest(odd, map(str, table))}"
        )
    series = found.reindex(given.index).astype(object)
    plain_cells = known is not None or not column.dtype
    return series if plain_cells else _typed(column, series, np.zeros(len(series), dtype=bool))


def _levels(column: Column) -> tuple[Any, ...]:
    return column.levels if isinstance(column, Category) else (False, True)


def _bounds(column: Column) -> tuple[float, float]:
    if isinstance(column, Datetime):
        low, high = (stamps.bound(column, end) for end in (column.low, column.high))
        return 0.0, float((high - low) // stamps.length(column))
    assert isinstance(column, Number) and column.low is not None and column.high is not None
    return float(column.low - column.origin), float(column.high - column.origin)


def _typed(column: Column, series: Any, empty: Array) -> Any:
    """A series of objects in the type of its column, with its na_token in empty cells."""
    pd = pandas()
    if empty.any():
        series = series.where(~empty, column.na_token)
    if isinstance(column, Category) and column.dtype in ("category",):
        known = restored(pd.Series(list(column.order), dtype=object), column.of) if column.order else None
        if known is None:
            return series.astype("category")
        place = {level: i for i, level in enumerate(column.order)}
        codes = np.array([-1 if v is None else place.get(v, -1) for v in series])
        return pd.Series(pd.Categorical.from_codes(codes, pd.Index(known), ordered=column.ordered))
    if column.dtype in ("", "object"):
        return series
    return restored(series, column.dtype)


def _some(names: Any, near: str, most: int = 12) -> list[str]:
    """At most ``most`` level names, the most similar ones first."""
    import difflib

    every = list(names)
    return every if len(every) <= most else difflib.get_close_matches(near, every, n=most, cutoff=0.0)
