"""Column types of pandas and Arrow: conversion to a few plain types, and back."""

from __future__ import annotations

import datetime
import decimal
import re
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, extra, require

OBJECTS = {"date": datetime.date, "time": datetime.time, "Decimal": decimal.Decimal}
"""What the dtype of a column of Python objects is called; pandas calls all of them object."""
INTERVAL = re.compile(r"([(\[])(.+), (.+)([)\]])")


def pandas() -> Any:
    return extra("pandas", "tables")


def called(cells: Any) -> str:
    """The name of the type of a series: that of pandas, or the Python type of the objects in it."""
    pd = pandas()
    if cells.dtype == object:
        kinds = {type(v) for v in cells.dropna()}
        return next((name for name, kind in OBJECTS.items() if kinds == {kind}), "object")
    return "category" if isinstance(cells.dtype, pd.CategoricalDtype) else str(cells.dtype)


def loose(cells: Any) -> Any:
    """A series as numbers of numpy, nullable integers and booleans, datetimes, or Python objects.

    Dates are datetimes at midnight, times of day are datetimes of 1970-01-01; durations and periods are integers in
    their unit.
    """
    pd = pandas()
    if isinstance(cells.dtype, pd.ArrowDtype):
        cells = _from_arrow(cells)
    if isinstance(cells.dtype, pd.SparseDtype):
        cells = cells.sparse.to_dense()
    if isinstance(cells.dtype, pd.CategoricalDtype | pd.StringDtype):
        cells = cells.astype(object)
    if isinstance(cells.dtype, pd.PeriodDtype) or pd.api.types.is_timedelta64_dtype(cells.dtype):
        whole = pd.Series(cells.array.asi8, index=cells.index, dtype="Int64")
        return whole.mask(cells.isna()) if cells.isna().any() else whole.astype("int64")
    if isinstance(cells.dtype, pd.IntervalDtype):
        cells = cells.astype(object)
    if pd.api.types.is_extension_array_dtype(cells.dtype) and pd.api.types.is_float_dtype(cells.dtype):
        return cells.astype("float64")
    if cells.dtype == object:
        kind = called(cells)
        if kind in ("date", "time"):
            return _stamps(cells, kind)
        if not cells.empty and all(isinstance(v, datetime.datetime) for v in cells.dropna()) and cells.notna().any():
            return _datetimes(cells)
    return cells


def bare(value: Any) -> Any:
    """A value as a file of YAML or JSON can hold it: numbers, truth values and text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)  # files hold whole numbers of 64 bits
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def restored(cells: Any, dtype: str) -> Any:
    """A series of plain values, datetimes or None in the type with the given name."""
    pd = pandas()
    if dtype in ("", "object"):
        return cells.astype(object)
    if dtype in OBJECTS:
        if dtype in ("date", "time") and cells.dtype != object:
            part = cells.dt.date if dtype == "date" else cells.dt.time
            cells = part.astype(object).where(cells.notna(), None)
        elif cells.dtype == object:
            cells = cells.map(lambda v: v if v is None or isinstance(v, OBJECTS[dtype]) else _object(v, dtype))
        return cells.astype(object)
    if dtype.endswith("[pyarrow]"):
        return _to_arrow(cells, dtype)
    if dtype.startswith("interval"):
        return pd.Series(
            pd.arrays.IntervalArray([_interval(v) for v in cells], dtype=pd.api.types.pandas_dtype(dtype)),
            index=cells.index,
        )
    if dtype.startswith(("timedelta", "period")):
        gone = cells.isna()
        whole = cells.where(~gone, 0).astype("int64")
        made: Any = whole.to_numpy()
        if dtype.startswith("timedelta"):
            made = pd.Series(made.astype(dtype.replace("timedelta64", "m8")), index=cells.index)
        else:
            made = pd.Series(pd.PeriodIndex.from_ordinals(made, freq=dtype[7:-1]), index=cells.index)
        return made.mask(gone) if gone.any() else made
    if dtype.startswith("datetime64") and cells.dtype == object:
        cells = pd.to_datetime(cells, utc="," in dtype, format="ISO8601")
    if dtype.startswith(("int", "uint")):
        if cells.isna().any():
            return _whole(cells, dtype.replace("int", "Int").replace("uI", "UI"))
        return _whole(cells, dtype)
    if dtype in ("bool",) and cells.isna().any():
        return cells.astype(object)
    return _whole(cells, dtype) if dtype.startswith(("Int", "UInt")) else cells.astype(dtype)


def arrow_type(name: str) -> Any:
    """The Arrow type of a name such as 'decimal128(10, 2)' or 'dictionary<values=string, ...>'."""
    pa = extra("pyarrow", "tables")
    if found := re.fullmatch(r"decimal(\d+)\((\d+), (-?\d+)\)", name):
        bits, precision, scale = map(int, found.groups())
        return vars(pa)[f"decimal{bits}"](precision, scale)
    if found := re.fullmatch(r"dictionary<values=(.+), indices=(\w+), ordered=([01])>", name):
        return pa.dictionary(arrow_type(found[2]), arrow_type(found[1]), ordered=found[3] == "1")
    if found := re.fullmatch(r"(timestamp|duration|time32|time64)\[(\w+)(?:, tz=(.+))?\]", name):
        kind, unit, zone = found.groups()
        kinds = {"timestamp": pa.timestamp, "duration": pa.duration, "time32": pa.time32, "time64": pa.time64}
        return kinds[kind](unit, zone) if zone else kinds[kind](unit)
    try:
        return pa.type_for_alias(name)
    except ValueError:
        raise BeelineError(
            f"{name!r} is no type of Arrow that a column can have; correct the dtype in the schema, or leave it out"
        ) from None


def _from_arrow(cells: Any) -> Any:
    """A series backed by Arrow without it."""
    types = extra("pyarrow", "tables").types
    kind = cells.dtype.pyarrow_dtype
    if types.is_integer(kind):
        whole = str(kind).replace("int", "Int").replace("uI", "UI")
        return cells.astype(whole) if cells.isna().any() else cells.astype(str(kind))
    if types.is_floating(kind):
        return cells.astype("float64")
    if types.is_boolean(kind):
        return cells.astype("boolean")
    if types.is_date(kind):
        return cells.astype("timestamp[s][pyarrow]").astype("datetime64[s]")
    if types.is_timestamp(kind) or types.is_duration(kind):
        letter = "datetime64" if types.is_timestamp(kind) else "timedelta64"
        zone = f", {kind.tz}" if types.is_timestamp(kind) and kind.tz else ""
        return cells.astype(f"{letter}[{kind.unit}{zone}]")
    return cells.astype(object).where(cells.notna(), None)


def _to_arrow(cells: Any, dtype: str) -> Any:
    pd, pa = pandas(), extra("pyarrow", "tables")
    kind = arrow_type(dtype.removesuffix("[pyarrow]"))
    if pa.types.is_time(kind) and cells.dtype != object:
        cells = restored(cells, "time")
    if pa.types.is_duration(kind):
        cells = restored(cells, f"timedelta64[{kind.unit}]")
    if pa.types.is_temporal(kind) and cells.dtype == object and isinstance(next(iter(cells.dropna()), None), str):
        cells = pd.to_datetime(cells, format="ISO8601")
    if pa.types.is_decimal(kind):
        cells = restored(cells, "Decimal")
    if pa.types.is_dictionary(kind):
        made = pa.array(list(cells), kind.value_type).dictionary_encode().cast(kind)
    else:
        made = pa.Array.from_pandas(cells, type=kind, safe=not pa.types.is_floating(kind))
    return pd.Series(pd.arrays.ArrowExtensionArray(made), index=cells.index)


def _whole(cells: Any, dtype: str) -> Any:
    """Whole numbers in their type, or in one that holds them where bounds were widened."""
    pd = pandas()
    info = np.iinfo(dtype.lower())
    if cells.dtype == object and any(isinstance(v, str) for v in cells):
        exact = [int(v) if isinstance(v, str) else v for v in cells]
        cells = pd.Series(exact, index=cells.index, dtype=object)
    full = cells.dropna()
    fits = full.empty or (int(full.min()) >= info.min and int(full.max()) <= info.max)
    if fits and cells.dtype == object:  # numbers of more than 53 bits must not pass through float64
        return pd.Series(pd.array([None if v is None or v is pd.NA else int(v) for v in cells], dtype=dtype),
                         index=cells.index)  # fmt: skip
    return cells.astype(dtype) if fits else cells


def _datetimes(cells: Any) -> Any:
    """Date and time objects as a series of datetimes, in UTC if they have a time zone."""
    pd = pandas()
    zones = {v.tzinfo is not None for v in cells.dropna()}
    require(
        len(zones) == 1,
        f"column {cells.name!r} mixes datetimes with and without a time zone; give all of them a zone, or none",
    )
    try:
        return pd.to_datetime(cells, utc=zones == {True})
    except (ValueError, TypeError, OverflowError) as error:
        raise BeelineError(
            f"column {cells.name!r} holds datetimes that cannot be read ({error}); convert them with pandas.to_datetime"
        ) from None


def _stamps(cells: Any, kind: str) -> Any:
    """Dates as datetimes at midnight; times of day as datetimes of 1970-01-01."""
    pd = pandas()
    day = datetime.date(1970, 1, 1)
    made = [
        None if pd.isna(v) else np.datetime64(v if kind in ("date",) else datetime.datetime.combine(day, v), "us")
        for v in cells
    ]
    gone = np.datetime64("NaT", "us")
    return pd.Series(np.array([gone if v is None else v for v in made], dtype="datetime64[us]"), index=cells.index)


def _object(value: Any, dtype: str) -> Any:
    if dtype in ("Decimal",):
        return decimal.Decimal(str(value))
    day, _, clock = str(value).partition(" ")
    return datetime.date.fromisoformat(day) if dtype in ("date",) else datetime.time.fromisoformat(clock or day)


def _interval(text: Any) -> Any:
    pd = pandas()
    if not isinstance(text, str):
        return text
    found = INTERVAL.fullmatch(text)
    require(found, f"{text!r} is no interval; write it as (low, high]")
    assert found is not None
    left, low, high, right = found.groups()
    closed = {"(]": "right", "[)": "left", "[]": "both", "()": "neither"}[left + right]
    ends = [float(v) if re.fullmatch(r"[-+.\deinf]+", v) else pd.Timestamp(v) for v in (low, high)]
    return pd.Interval(*ends, closed=closed)
