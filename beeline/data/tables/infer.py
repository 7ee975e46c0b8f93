"""Inference of the schema of a data frame; ValueError names the rows and columns that cannot be learned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, nearest, require
from beeline.data.tables.codec import datetime_formats
from beeline.data.tables.codec.timestamps import described, ticks, zone_of
from beeline.data.tables.csv_files import names
from beeline.data.tables.distinct import DistinctCells
from beeline.data.tables.dtypes import bare, called, loose, pandas
from beeline.data.tables.row_names import counts_rows, names_rows
from beeline.data.tables.schema import (  # fmt: skip
    EXACT,
    KINDS,
    Boolean,
    Category,
    Column,
    Constant,
    Datetime,
    Identifier,
    Number,
    Schema,
    corrected,
    listed,
)

MARKERS = ("?", "", "na", "n/a", "nan", "null", "none", "-", "--", ".", "unknown", "missing")
"""Texts of empty cells in columns of numbers or datetimes; in categories they are levels."""
LEVELS = 20_000  # a category with more levels is refused
FEW = 20  # with at most so many distinct values, text is a category even if most values are numbers
STYLES = (("", "."), (",", "."), ("", ","), (".", ","), (" ", ","), ("\u00a0", ","), ("\u202f", ","), ("'", "."),
          ("\u2019", "."), (" ", "."))  # fmt: skip
"""(thousands separator, decimal sign), in the order in which they are tried."""


def label(name: Any) -> str:
    """The name of a column as text; levels of a multi-index are joined by points."""
    return ".".join(str(part) for part in name if str(part)) if isinstance(name, tuple) else str(name)


def named(frame: Any) -> Any:
    """A data frame whose column names are text."""
    if all(isinstance(name, str) for name in frame.columns):
        return frame
    return frame.set_axis([label(name) for name in frame.columns], axis=1)


def infer(frame: Any, corrections: Mapping[Any, Any] | None = None, decimal: str = ".") -> Schema:
    """The schema of a data frame; ``corrections`` apply before columns are refused.

    ``decimal`` is the decimal sign of the file, which determines the value of the text 1,234.
    """
    pd = pandas()
    require(
        isinstance(frame, pd.DataFrame),
        f"got {type(frame).__name__}, which is no table; give a pandas DataFrame, or a .csv or .parquet file",
    )
    require(frame.shape[1] > 0, "the table has no columns; check how it was read")
    names([label(name) for name in frame.columns])
    require(len(frame) > 0, "the table has no rows; check how it was read")
    frame = named(frame).reset_index(drop=True)
    given = {label(name): settings for name, settings in (corrections or {}).items()}
    for name in given:
        require(name in frame.columns, f"the table has no column {name!r}; {nearest(name, frame.columns)}")
    made = []
    for name in frame.columns:
        settings = given.get(name, {})
        kind = settings.get("kind") if isinstance(settings, Mapping) else None
        found = column(name, frame[name], kind if kind in KINDS else None, decimal, settings)
        made.append(corrected(found, settings) if settings else found)
    return Schema(tuple(made))


def column(
    name: str, cells: Any, kind: str | None = None, decimal: str = ".", given: Mapping[str, Any] | None = None
) -> Column:
    """The inferred column, of the given kind if there is one; rows in messages count from 1, without the header."""
    pd = pandas()
    common: dict[str, Any] = {"name": name, "dtype": called(cells), "missing": bool(cells.isna().any())}
    levelled: dict[str, Any] = {}
    if isinstance(cells.dtype, pd.CategoricalDtype):
        known = cells.cat.categories
        levelled = {"order": tuple(bare(v) for v in known), "ordered": bool(cells.cat.ordered)}
        levelled["of"] = called(known.to_series())
    cells = loose(cells)
    full = cells[cells.notna().to_numpy()]
    if kind is not None:
        return _forced(common, full, kind, decimal, levelled, given or {})
    if full.empty:
        return Constant(name=name, dtype=common["dtype"], value=None)
    if levelled or common["dtype"].startswith("dictionary"):
        return _category(common, full, levelled)
    if pd.api.types.is_bool_dtype(full.dtype):
        varied = full.nunique() > 1 or common["missing"]
        return Boolean(**common) if varied else Constant(name, common["dtype"], value=bool(full.iloc[0]))
    if pd.api.types.is_datetime64_any_dtype(full.dtype):
        return _datetimes(common, full)
    if pd.api.types.is_numeric_dtype(full.dtype):
        return _number(common, full)
    return _text(common, full, decimal)


def _forced(
    common: dict[str, Any], full: Any, kind: str, decimal: str, levelled: dict[str, Any], given: Mapping[str, Any]
) -> Column:
    """A column of the given kind, with settings inferred from its cells."""
    pd = pandas()
    name, text = common["name"], not full.empty and all(isinstance(v, str) for v in full)
    if kind == Category.kind:
        return Category(**common, levels=levels(full), **levelled)
    if kind == Constant.kind:
        return Constant(name, common["dtype"], value=None if full.empty else bare(full.iloc[0]))
    if kind == Identifier.kind:
        return Identifier(**common, text=text)
    if full.empty:
        return KINDS[kind](**common)
    if kind == Datetime.kind:
        if pd.api.types.is_datetime64_any_dtype(full.dtype):
            found: Column | None = _datetimes(common, full, alone=True)
        else:
            form = (
                datetime_formats.Form(str(given["format"]), tuple(given.get("months", ())))
                if "format" in given
                else None
            )
            found = _datetimes_in_text(common, full, form, strict=True) if text else None
        return found or Datetime(**common)
    if kind == Number.kind:
        found = None
        if pd.api.types.is_numeric_dtype(full.dtype) or not text:
            try:
                found = _number(common, full, alone=True)
            except (TypeError, ValueError) as error:
                if isinstance(error, BeelineError):
                    raise
        else:
            found = _numbers_in_text(common, full, given.get("decimal", decimal), strict=True)
        return found or Number(**common, text=text)
    return KINDS[kind](**common)


def _number(common: dict[str, Any], full: Any, alone: bool = False) -> Column:
    """A column of numbers; with ``alone`` always a Number, else perhaps a constant, category or identifier."""
    pd = pandas()
    name = common["name"]
    require(
        not any(isinstance(v, complex) for v in full) if full.dtype == object else full.dtype.kind not in "c",
        f"column {name!r} holds complex numbers, which have no order to learn; split it into two columns",
    )
    scale = None
    if full.dtype == object and any(isinstance(v, Decimal) for v in full):
        scale = max(0, *(-int(v.as_tuple().exponent) for v in full if isinstance(v, Decimal)))
    whole = pd.api.types.is_integer_dtype(full.dtype) or (
        full.dtype == object and all(isinstance(v, int | np.integer) or v == int(v) for v in full) and not scale
    )
    if whole:
        exact = full.map(int) if full.dtype == object else full
        low, high, count = int(exact.min()), int(exact.max()), int(exact.nunique())
        if count == 1 and not common["missing"] and not alone:
            return Constant(name, common["dtype"], value=low)
        if not alone and not common["missing"] and counts_rows(name, exact, count):
            return Identifier(**common)
        if high - low > EXACT and not alone:
            return _category(common, exact, {})
        return Number(**common, integer=True, decimals=0, low=low, high=high)
    values = full.to_numpy(dtype=np.float64)
    bad = [int(full.index[i]) + 1 for i in np.flatnonzero(np.isinf(values))]
    require(
        not bad,
        f"column {name!r} holds infinite numbers in rows {listed(bad)}; remove these rows, or leave the cells empty",
    )
    different = np.unique(values)
    if len(different) == 1 and not common["missing"] and not alone:
        return Constant(name, common["dtype"], value=bare(full.iloc[0]))
    integer = scale is None and bool((values == np.round(values)).all()) and bool(np.abs(different).max() <= EXACT)
    if integer and not common["missing"] and not alone and counts_rows(name, full, len(different)):
        return Identifier(**common)
    ends = [int(v) if integer else float(v) for v in (different[0], different[-1])]
    decimals = 0 if integer else scale if scale is not None else _decimals(different)
    return Number(**common, integer=integer, decimals=None if integer else decimals, low=ends[0], high=ends[1])


def _text(common: dict[str, Any], full: Any, decimal: str) -> Column:
    name = common["name"]
    kinds = {type(v) for v in full}
    if kinds <= {bool, np.bool_}:
        return Boolean(**common)
    if kinds <= {int, float, np.int64, np.float64, Decimal}:
        return _number(common, full)
    if len(kinds) > 1:
        odd = min(kinds, key=lambda k: sum(type(v) is k for v in full))
        rows = [i + 1 for i, v in zip(full.index, full, strict=True) if type(v) is odd]
        raise BeelineError(
            f"column {name!r} mixes {' and '.join(sorted(k.__name__ for k in kinds))}: rows {listed(rows)} hold "
            f"{odd.__name__}; one column has one kind of value: convert it to text or to numbers"
        )
    require(
        kinds == {str},
        f"column {name!r} holds {next(iter(kinds)).__name__} objects, which a table cannot carry; "
        "convert them to numbers, text or dates",
    )
    return (
        _numbers_in_text(common, full, decimal) or _datetimes_in_text(common, full, None) or _category(common, full, {})
    )


def _is_marker(cells: DistinctCells) -> Any:
    return cells.distinct.str.strip().str.lower().isin(MARKERS)


def _marked(common: dict[str, Any], cells: DistinctCells) -> dict[str, Any]:
    """The settings of the column with the text that marks empty cells; refused where there are several."""
    marks = list(cells.distinct[_is_marker(cells)])
    if not marks:
        return common
    require(
        len(marks) <= 1,
        f"column {common['name']!r} marks empty cells in {len(marks)} ways ({listed(map(repr, marks))}); use one of "
        "them",
    )
    return {**common, "missing": True, "na_token": marks[0]}


def digits(texts: Any, before: str, after: str, thousands: str, decimal: str) -> Any:
    """Text cells as plain numbers, without prefix, suffix and thousands separators."""
    made = texts.str.removeprefix(before).str.removesuffix(after)
    made = made.str.replace(thousands, "", regex=False) if thousands else made
    return made if decimal in (".",) else made.str.replace(decimal, ".", regex=False)


def _numbers_in_text(common: dict[str, Any], full: Any, decimal: str, strict: bool = False) -> Column | None:
    """A column of numbers in text, or None; ValueError names the rows of a column that mixes numbers and text."""
    name = common["name"]
    cells = DistinctCells.of(full)
    shown = cells.where(~_is_marker(cells))
    if not len(shown.codes) or (len(shown.distinct) <= FEW and len(shown.codes) < 0.5 * len(full)) and not strict:
        return None
    if shown.distinct.str.fullmatch(r"0\d+").any() and not strict:  # leading zeros mean text
        return None
    style, share = _style(shown, decimal)
    if style is None or share < 0.5:
        return None
    before, after, thousands, sign, pattern = style
    if share < 1:
        if len(cells.distinct) <= FEW and not strict:
            return None
        strange = shown.where(~shown.distinct.str.fullmatch(pattern))
        raise BeelineError(
            f"column {name!r} mixes numbers with text: rows {listed(i + 1 for i in strange.index)} hold "
            f"{listed(map(repr, strange.distinct))}; correct these cells, write them as empty, "
            "or make the column a category in the schema",
        )
    common = _marked(common, cells)
    plain = digits(shown.distinct, before, after, thousands, sign)
    fractions = plain.str.extract(r"\.(\d*)$", expand=False).fillna("").str.len()
    whole = plain.str.fullmatch(r"[+-]?\d{1,300}").all()
    made = _number(common, shown.spread(plain.map(int) if whole else plain.astype("float64")), alone=strict)
    if isinstance(made, Identifier):
        return replace(made, text=True)
    if not isinstance(made, Number):
        return _category(common, shown.spread(shown.distinct), {})
    places = int(fractions.max())
    powers = plain.str.contains("[eE]").any()
    return replace(
        made, text=True, before=before, after=after, thousands=thousands, decimal=sign,
        integer=bool(whole), decimals=0 if whole else None if powers else places,
        least=0 if whole or powers else int(fractions.min()),
    )  # fmt: skip


def _style(shown: DistinctCells, decimal: str) -> tuple[tuple[str, str, str, str, str] | None, float]:
    """(before, after, thousands, decimal, pattern) of most cells, and their share.

    Signs such as $ or % are units, and letters as in EUR 5 or 5 kg; A14 and item 14 may be names.
    """
    units = shown.distinct.take(shown.codes[:1000]).str.extract(
        r"^((?:[^\w\s.,+'\u2019-]\s?|[A-Z]{3}\s)?)[+-]?[\d.](?:[\d., '\u2019\u00a0\u202f]*\d)?\.?(?:[eE][+-]?\d+)?"
        r"((?:\s?[^\w\s.,+'\u2019-]|\s[A-Za-z/%]{1,6})?)$"
    ).dropna()  # fmt: skip
    if units.empty:
        return None, 0.0
    before, after = map(str, units.value_counts().index[0])
    if re.search("[A-Za-z]", before + after) and len(shown.distinct) <= FEW:
        return None, 0.0
    best: tuple[tuple[str, str, str, str, str] | None, float] = (None, 0.0)
    for thousands, sign in sorted(STYLES, key=lambda style: style[1] not in (decimal,)):
        group = rf"\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+|\d+" if thousands else r"\d+"
        power = "" if thousands else r"(?:[eE][+-]?\d+)?"
        point = re.escape(sign)
        pattern = rf"{re.escape(before)}[+-]?(?:(?:{group})(?:{point}\d*)?|{point}\d+){power}{re.escape(after)}"
        share = shown.share(shown.distinct.str.fullmatch(pattern))
        if share > best[1]:
            best = ((before, after, thousands, sign, pattern), share)
        if share == 1:
            break
    return best


def _datetimes_in_text(
    common: dict[str, Any], full: Any, form: datetime_formats.Form | None, strict: bool = False
) -> Column | None:
    """A column of datetimes in text, or None; ValueError names the rows of other text."""
    name = common["name"]
    cells = DistinctCells.of(full)
    shown = cells.where(~_is_marker(cells))
    first = shown.distinct.take(shown.codes[:50])
    if first.empty or (form is None and first.str.contains(r"\d").mean() < 0.5):
        return None
    texts = shown.distinct.tolist()
    if form is None:
        form, bad = datetime_formats.find(texts)
    else:
        bad = np.array([s is None for s in form.parse(texts)[0]])
    if form is None or (bad.any() and len(cells.distinct) <= FEW and not strict):
        return None
    strange = shown.where(bad)
    require(
        not len(strange.codes),
        f"column {name!r} mixes datetimes written as {form.format} with others: rows "
        f"{listed(i + 1 for i in strange.index)} hold {listed(map(repr, strange.distinct))}; correct these "
        "cells, write them as empty, or make the column a category in the schema",
    )
    common = _marked(common, cells)
    found, offsets = form.parse(texts)
    nano = any(s % 1000 for s in found)
    require(
        not nano or max(abs(s) for s in found) < 2**63,
        f"column {name!r} holds nanoseconds in years outside 1678 to 2261, which 64 bits cannot count; write "
        "microseconds",
    )
    stamps = np.array([s if nano else s // 1000 for s in found], dtype=np.int64)
    if len(texts) == 1 and not common["missing"] and not strict:
        return Constant(name, common["dtype"], value=texts[0])
    zone = zone_of(list(found), list(offsets)) if offsets[0] is not None else ""
    return Datetime(**common, format=form.format, months=form.months, zone=zone, **described(stamps, nano, zone))


def _datetimes(common: dict[str, Any], full: Any, alone: bool = False) -> Column:
    stamps, nano = ticks(full, common["name"])
    if len(np.unique(stamps)) == 1 and not common["missing"] and not alone:
        return Constant(common["name"], common["dtype"], value=str(full.iloc[0]))
    zone = "" if full.dt.tz is None else str(full.dt.tz)
    return Datetime(**common, **described(stamps, nano, zone))


def _category(common: dict[str, Any], full: Any, levelled: dict[str, Any]) -> Column:
    name, count = common["name"], full.nunique()
    if count == 1 and not common["missing"] and not levelled:
        return Constant(name, common["dtype"], value=bare(full.iloc[0]))
    if not levelled and not common["missing"] and count == len(full) >= 20 and names_rows(name, full):
        return Identifier(**common, text=isinstance(full.iloc[0], str))
    require(
        count <= LEVELS and (len(full) < 100 or count <= 0.5 * len(full)),
        f"column {name!r} holds {count} different values in {len(full)} rows, too many for a category; exclude the "
        f"column, group its values, or set its kind in the schema: {{{name}: {{kind: identifier}}}} replaces it by new "
        "numbers; other kinds are number, datetime and category",
    )
    return Category(**common, levels=levels(full), **levelled)


def levels(full: Any) -> tuple[Any, ...]:
    """The distinct values of a column, most frequent first, ties in alphabetical order."""
    counts = full.value_counts()
    pairs = sorted(((bare(v), int(n)) for v, n in counts.items()), key=lambda p: (-p[1], str(p[0])))
    return tuple(value for value, _ in pairs)


def _decimals(different: np.ndarray[Any, Any]) -> int | None:
    """The number of decimal places of the values; None for more than 9."""
    for places in range(1, 10):
        if np.allclose(np.round(different, places), different, rtol=1e-12, atol=0):
            return places
    return None
