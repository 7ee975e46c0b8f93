"""From a file or a data frame to a schema; whatever cannot be learned is refused with its rows and columns named."""

from __future__ import annotations

import csv
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.types import extra, require
from beeline.data.schema import UNITS, Boolean, Category, Column, Constant, Identifier, Moment, Number, Schema, listed

MARKERS = ("?", "", "na", "n/a", "nan", "null", "none", "-", "--", ".", "unknown", "missing")
"""Texts that stand for an empty cell in a column of numbers or moments; in a category they are levels like others."""
LEVELS = 20_000  # a category with more levels is refused
FEW = 20  # so few different values mean codes, even where most of them are numbers
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""What files begin with that say how they are encoded; others are UTF-8, or else of an old Windows."""


def pandas() -> Any:
    return extra("pandas", "tables")


def read(path: str | Path, rows: int | None = None) -> Any:
    """A CSV (.csv, .tsv) or Parquet file as a data frame; refused when it is empty or its header is unfit."""
    path = Path(path)
    require(path.is_file(), f"there is no file {path}; check the path")
    if path.suffix.lower() in (".parquet", ".pq"):
        frame = extra("pyarrow.parquet", "tables").read_table(path).to_pandas()
        return frame if rows is None else frame.head(rows)
    require(
        path.suffix.lower() in (".csv", ".tsv", ".txt"),
        f"{path} is neither CSV nor Parquet by its name; give a .csv, .tsv or .parquet file",
    )
    written = dialect(path)
    with open(path, newline="", encoding=written["encoding"]) as file:
        names(next(csv.reader(file, delimiter=written["sep"])), str(path))
    frame = pandas().read_csv(
        path, keep_default_na=False, na_values=[""], low_memory=False, nrows=rows, index_col=False, **written
    )
    require(len(frame) > 0, f"{path} has a header but no rows; a table is learned from rows: check that it was written")
    return frame


def dialect(path: Path) -> dict[str, str]:
    """How a CSV file is written, in the words of pandas: encoding, separator, and decimal sign.

    A decimal comma is seen where another sign separates the cells, and no number has a point.
    """
    with open(path, "rb") as raw:
        head = raw.read(4)
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")
    encoding = next((name for name in (marked, "cp1252") if _decodes(path, name)), "latin-1")
    with open(path, newline="", encoding=encoding) as file:
        start = file.read(65536)
    require(start.strip(), f"{path} is empty; a table needs a header and rows: check that it was written")
    sep = "\t" if path.suffix.lower() == ".tsv" else _separator(start)
    cells = {cell for row in csv.reader(start.splitlines()[1:], delimiter=sep) for cell in row}
    comma = any(re.fullmatch(r"-?\d+,\d+", cell) for cell in cells)
    point = any(re.fullmatch(r"-?\d+\.\d+", cell) for cell in cells)
    return {"encoding": encoding, "sep": sep, "decimal": "," if comma and not point and sep != "," else "."}


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with open(path, newline="", encoding=encoding) as file:
            while file.read(1 << 20):
                pass
    except UnicodeError:
        return False
    return True


def names(header: list[Any], what: str = "the table") -> None:
    """Refuse a header with unnamed or repeated columns."""
    unnamed = [i + 1 for i, name in enumerate(header) if not str(name).strip()]
    require(
        not unnamed,
        f"column {listed(unnamed)} of {what} has no name; every column is asked for by its name: name it in the header "
        "(an index that was written along is dropped with index=False)",
    )
    twice = sorted({str(name) for name in header if list(header).count(name) > 1})
    require(
        not twice,
        f"{what} has more than one column named {listed(map(repr, twice))}; one name means one column: rename them",
    )


def infer(frame: Any) -> Schema:
    """The schema of a data frame, as far as its cells tell it."""
    pd = pandas()
    require(
        isinstance(frame, pd.DataFrame),
        f"got {type(frame).__name__} in place of a table; give a pandas DataFrame, or a .csv or .parquet file",
    )
    require(frame.shape[1] > 0, "the table has no columns; nothing can be learned from it: check how it was read")
    names(list(frame.columns))
    require(len(frame) > 0, "the table has no rows; it is learned from rows: check how it was read")
    frame = frame.reset_index(drop=True)
    return Schema(tuple(column(str(name), frame[name]) for name in frame.columns))


def column(name: str, cells: Any) -> Column:
    """The kind of one column; rows in messages count from 1, without the header."""
    pd = pandas()
    dtype = str(cells.dtype)
    empty = cells.isna()
    full = cells[~empty]
    common: dict[str, Any] = {"name": name, "dtype": dtype, "missing": bool(empty.any())}
    if full.empty:
        return Constant(name=name, dtype=dtype, value=None)
    if isinstance(cells.dtype, pd.CategoricalDtype):
        return _category(common, full.astype(object))
    if pd.api.types.is_bool_dtype(cells.dtype):
        return (
            Boolean(**common) if full.nunique() > 1 or empty.any() else Constant(name, dtype, value=bool(full.iloc[0]))
        )
    if pd.api.types.is_datetime64_any_dtype(cells.dtype):
        return _moment(common, full, None)
    if pd.api.types.is_numeric_dtype(cells.dtype):
        return _number(common, cells, full)
    return _text(common, cells, full)


def _number(common: dict[str, Any], cells: Any, full: Any) -> Column:
    name = common["name"]
    require(
        not np.iscomplexobj(full.to_numpy()),
        f"column {name!r} holds complex numbers, which have no order to learn; split it into two columns",
    )
    values = full.to_numpy(dtype=np.float64)
    bad = np.flatnonzero(cells.isin([np.inf, -np.inf]).to_numpy()) + 1
    require(
        not len(bad),
        f"column {name!r} holds infinite numbers in rows {listed(bad)}; no law covers them: "
        "remove these rows, or write the cells as empty",
    )
    different = np.unique(values)
    if len(different) == 1 and not common["missing"]:
        return Constant(name, common["dtype"], value=_bare(full.iloc[0]))
    integer = bool((values == np.round(values)).all())
    if integer and not common["missing"] and _counts(name, values, different):
        return Identifier(**common)
    decimals = 0 if integer else _decimals(different)
    low, high = float(different[0]), float(different[-1])
    return Number(**common, integer=integer, decimals=None if integer else decimals, low=low, high=high)


def _text(common: dict[str, Any], cells: Any, full: Any) -> Column:
    pd = pandas()
    name = common["name"]
    kinds = {type(v) for v in full}
    if kinds <= {bool}:
        return Boolean(**common)
    if kinds <= {int, float, np.int64, np.float64}:
        return _number(common, cells, full)
    mixed = len(kinds) > 1
    odd = min(kinds, key=lambda k: sum(type(v) is k for v in full))
    rows = [i + 1 for i, v in zip(full.index, full, strict=True) if type(v) is odd] if mixed else []
    require(
        not mixed,
        f"column {name!r} mixes {' and '.join(sorted(k.__name__ for k in kinds))}: rows {listed(rows)} hold "
        f"{odd.__name__}; one column has one kind of value: convert it to text or to numbers",
    )
    require(
        kinds == {str},
        f"column {name!r} holds {next(iter(kinds)).__name__} objects, which a table cannot carry; "
        "convert them to numbers, text or dates",
    )
    unit = _unit(full)
    if unit is not None:
        before, after = unit
        bare = pd.to_numeric(full.str.removeprefix(before).str.removesuffix(after))
        made = _number(common, bare, bare)
        return replace(made, before=before, after=after) if isinstance(made, Number) else _category(common, full)
    if (found := _numbers_in_text(common, full)) is not None:
        return found
    shown = full[~full.str.strip().str.lower().isin(MARKERS)]
    form = _format(shown)
    if form is not None:
        marks = sorted(set(full) - set(shown))
        marked = {**common, "missing": common["missing"] or bool(marks), "marker": marks[0] if marks else None}
        return _moment(marked, pd.to_datetime(shown, format=form), form)
    return _category(common, full)


def _unit(full: Any) -> tuple[str, str] | None:
    """The same signs, such as $ or %, before and after the number of every cell; None where there are none.

    Letters are no unit: A14 may be a code.
    """
    parts = full.str.extract(r"^([^\w\s.+-]?\s?)-?\d+(?:\.\d+)?(\s?[^\w\s.+-]?)$")
    if parts.isna().any(axis=None) or len(parts.drop_duplicates()) > 1:
        return None
    before, after = parts.iloc[0]
    return (str(before), str(after)) if before or after else None


def _numbers_in_text(common: dict[str, Any], full: Any) -> Column | None:
    """Numbers between markers of empty cells, or None; a column that is neither is refused with its rows."""
    pd = pandas()
    name = common["name"]
    numbers = pd.to_numeric(full, errors="coerce")
    plain = numbers.notna()
    if plain.mean() < 0.5:
        return None
    rest = full[~plain]
    marks = [m for m in dict.fromkeys(rest) if m.strip().lower() in MARKERS]
    strange = rest[~rest.isin(marks)]
    if not strange.empty:
        if full.nunique() <= FEW:
            return None
        require(
            False,
            f"column {name!r} mixes numbers with text: rows {listed(i + 1 for i in strange.index)} hold "
            f"{listed(map(repr, dict.fromkeys(strange)))}; correct these cells, write them as empty, "
            "or make the column a category in the schema",
        )
    require(
        len(marks) <= 1,
        f"column {name!r} marks empty cells in {len(marks)} ways ({listed(map(repr, marks))}); use one of them",
    )
    common = {**common, "missing": common["missing"] or bool(marks), "marker": marks[0] if marks else None}
    return _number(common, numbers[plain], numbers[plain])


def _category(common: dict[str, Any], full: Any) -> Column:
    name, count = common["name"], full.nunique()
    if count == 1 and not common["missing"]:
        return Constant(name, common["dtype"], value=_bare(full.iloc[0]))
    if len(full) >= 20 and count >= 0.95 * len(full):
        return Identifier(**common, text=isinstance(full.iloc[0], str))
    require(
        count <= LEVELS and (len(full) < 100 or count <= 0.5 * len(full)),
        f"column {name!r} is text with {count} different values in {len(full)} rows, most of them seen once; a law of "
        "such text cannot be learned from a table: leave the column out, group its values, or make it an identifier",
    )
    return Category(**common, levels=levels(full))


def levels(full: Any) -> tuple[Any, ...]:
    """The different values of a column, most frequent first, equals in order of their text."""
    counts = full.value_counts()
    pairs = sorted(((_bare(v), int(n)) for v, n in counts.items()), key=lambda p: (-p[1], str(p[0])))
    return tuple(value for value, _ in pairs)


def _moment(common: dict[str, Any], full: Any, form: str | None) -> Column:
    count = nanoseconds(full)
    if len(np.unique(count)) == 1 and not common["missing"]:
        value = full.iloc[0].strftime(form) if form else str(full.iloc[0])
        return Constant(common["name"], common["dtype"], value=value)
    unit = next(u for u, (_, length) in UNITS.items() if not (count % length).any())
    return Moment(**common, format=form, unit=unit, low=str(full.min()), high=str(full.max()))


def nanoseconds(moments: Any) -> np.ndarray[Any, Any]:
    """Nanoseconds since 1970 (int64) of a series of moments without gaps; those with a zone count in UTC."""
    if moments.dt.tz is not None:
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    return np.asarray(moments.to_numpy().astype("datetime64[ns]").astype(np.int64))


def _format(text: Any) -> str | None:
    """The form in which all cells write a moment, to the letter; None when they do not."""
    if text.empty or not text.head(50).str.contains(r"\d[-/.:T ]\d").all():
        return None
    pd = pandas()
    for first in (False, True):
        with warnings.catch_warnings():  # a day above 12 says by itself that it comes first
            warnings.simplefilter("ignore", UserWarning)
            guess = pd.tseries.api.guess_datetime_format(text.iloc[0].strip(), dayfirst=first)
        if guess is None or "%z" in guess:
            continue
        moments = pd.to_datetime(text, format=guess, errors="coerce")
        if moments.notna().all() and (moments.dt.strftime(guess) == text).all():
            return str(guess)
    return None


def _counts(name: str, values: np.ndarray[Any, Any], different: np.ndarray[Any, Any]) -> bool:
    """Whether whole numbers count the rows: all different, in steps of one or under a name that says so."""
    if len(values) < 20 or len(different) < len(values):
        return False
    named = re.search(r"(^|_|\b)(id|uuid|guid|key|index|rowid|number|no)$", name.strip().lower()) is not None
    dense = len(np.unique(np.diff(values))) == 1 and abs(values[1] - values[0]) == 1  # the number of the row
    return dense or named or name.endswith(("Id", "ID"))


def _decimals(different: np.ndarray[Any, Any]) -> int | None:
    """How many digits after the point all values have; None when they have more than 9."""
    for digits in range(1, 10):
        if np.allclose(np.round(different, digits), different, rtol=1e-12, atol=0):
            return digits
    return None


def _separator(start: str) -> str:
    line = start.splitlines()[0]
    return max(",;\t|", key=line.count)


def _bare(value: Any) -> Any:
    """A value as plain Python."""
    return value.item() if isinstance(value, np.generic) else value
