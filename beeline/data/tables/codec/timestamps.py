"""Datetimes as integer counts of a unit since the earliest one, exact for the years 1 to 9999."""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Sequence
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, require
from beeline.data.tables.codec.datetime_formats import Form
from beeline.data.tables.dtypes import loose, pandas, restored
from beeline.data.tables.schema import UNITS, Datetime, listed

Array = np.ndarray[Any, Any]

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and last microsecond since 1970 in the years 1 to 9999."""
ZONES = ("Europe/Berlin", "America/New_York", "Europe/London", "America/Chicago", "America/Los_Angeles", "UTC")
"""Time zones that are tried first for text with varying offsets."""


def ticks(datetimes: Any, name: str) -> tuple[Array, bool]:
    """Microseconds since 1970 in UTC (int64) of a series of datetimes without gaps, or (nanoseconds, True)."""
    if datetimes.dt.tz is not None:
        datetimes = datetimes.dt.tz_convert("UTC").dt.tz_localize(None)
    array = datetimes.to_numpy()
    if array.dtype == np.dtype("datetime64[ns]"):
        count = array.astype(np.int64)
        fine = bool((count % 1000).any())
        return (count, True) if fine else (count // 1000, False)
    years = array.astype("datetime64[Y]").astype(np.int64) + 1970
    bad = np.flatnonzero((years < 1) | (years > 9999))
    require(
        not len(bad),
        f"column {name!r} holds years outside 1 to 9999 in row {listed(int(datetimes.index[i]) + 1 for i in bad)}; "
        "correct these cells, or write them as empty",
    )
    return array.astype("datetime64[us]").astype(np.int64), False


def texts(column: Datetime, full: Any) -> tuple[Array, Array]:
    """Nanoseconds since 1970 (Python integers, None where a cell is no datetime) and UTC offsets of text cells."""
    pd = pandas()
    codes, different = pd.factorize(full)
    form = Form(column.format or "%Y-%m-%d", column.months)
    stamps, offsets = form.parse(map(str, different))
    for i in np.flatnonzero([s is None for s in stamps]):  # the ISO form is read everywhere, as in a condition
        stamps[i] = _iso(str(different[i]), bool(column.zone) or "," in column.dtype)
    return stamps[codes], offsets[codes]


def counts(column: Datetime, full: Any) -> Array:
    """The number of units between the lower bound and each cell, [N] in float64."""
    full = loose(full)
    pd = pandas()
    fine = column.unit in ("ns",)
    if pd.api.types.is_datetime64_any_dtype(full.dtype):
        made, nano = ticks(full, column.name)
        stamps = made if nano == fine else made // 1000 if nano else made * 1000
    else:
        require(
            not pd.api.types.is_numeric_dtype(full.dtype) and not any(isinstance(v, int | float) for v in full),
            f"column {column.name!r} has the kind datetime, but holds numbers; convert them with pandas.to_datetime, "
            "which knows their unit, or keep it a number",
        )
        raw, _ = texts(column, full)
        bad = np.flatnonzero([s is None for s in raw])
        require(
            not len(bad),
            f"column {column.name!r} holds {listed(repr(full.iloc[i]) for i in bad[:3])} in row "
            f"{listed(int(full.index[i]) + 1 for i in bad)}, which is no datetime written as "
            f"{column.format or 'YYYY-MM-DD'}; correct these cells, or give the format in the schema",
        )
        stamps = np.array([s if fine else s // 1000 for s in raw], dtype=np.int64)
    low = bound(column, column.low)
    return np.asarray(_less(stamps, low) // length(column), dtype=np.float64)


def _less(stamps: Array, low: int) -> Array:
    """stamps - low, exact for any distance."""
    if len(stamps) and max(abs(int(stamps.min()) - low), abs(int(stamps.max()) - low)) >= 2**63:
        return np.array([int(s) - low for s in stamps], dtype=object)
    return stamps - low


def length(column: Datetime) -> int:
    """Microseconds of the unit of a column (or nanoseconds where that is the unit)."""
    return 1 if column.unit in ("ns",) else UNITS[column.unit][1] // 1000


def bound(column: Datetime, text: str | None) -> int:
    """A bound as microseconds (or nanoseconds) since 1970."""
    stamp = _iso(str(text), True)
    require(
        stamp is not None,
        f"column {column.name!r} has the bound {text!r}, which is no datetime; write it as 2024-12-31 or "
        "2024-12-31 13:00:00",
    )
    assert stamp is not None
    return stamp if column.unit in ("ns",) else stamp // 1000


def described(stamps: Array, nano: bool, zone: str = "") -> dict[str, Any]:
    """Unit and bounds of a datetime column."""
    step = 1 if nano else 1000
    unit = next(u for u, (_, size) in UNITS.items() if size < step or not (stamps % (size // step)).any())
    low, high = (_shown(int(end), nano, zone) for end in (stamps.min(), stamps.max()))
    return {"unit": unit, "low": low, "high": high}


def written(column: Datetime, numbers: Array, empty: Array) -> Any:
    """Counts of units as a series in the format and type of the column."""
    pd = pandas()
    low, high = bound(column, column.low), bound(column, column.high)
    most = (high - low) // length(column)
    units = np.clip(np.rint(numbers), 0, most)
    stamps = np.array([low + int(u) * length(column) for u in units], dtype=np.int64)
    letter = "ns" if column.unit in ("ns",) else "us"
    series = pd.Series(stamps.astype(f"datetime64[{letter}]"))
    if column.format is not None:
        size = 1 if letter in ("ns",) else 1000
        different, back = np.unique(stamps, return_inverse=True)
        offsets = offsets_of(different * 1 if letter not in ("ns",) else different // 1000, column.zone)
        made = Form(column.format, column.months).write([int(s) * size for s in different], offsets)
        text = pd.Series(np.array(made, dtype=object)[back])
        text = text.where(~empty, column.na_token) if empty.any() else text
        return restored(text, column.dtype)
    if empty.any():
        series = series.mask(empty)
    if "," in column.dtype or "tz=" in column.dtype:
        series = series.dt.tz_localize("UTC")
    if column.dtype.startswith("datetime64") and "," in column.dtype:
        return series.dt.tz_convert(column.dtype.partition(", ")[2].rstrip("]")).astype(column.dtype)
    return restored(series, column.dtype) if column.dtype not in ("", "object") else series.astype(object)


def zone_of(stamps: Sequence[int], offsets: Sequence[int]) -> str:
    """A time zone with the given offsets (minutes) at the given times (nanoseconds since 1970); else UTC."""
    micros, wanted = np.array([s // 1000 for s in stamps], dtype=np.int64), np.array(offsets, dtype=np.int64)
    if (wanted == wanted[0]).all():
        return "UTC" if wanted[0] == 0 else next((z for z in _all_zones() if _has(z, micros, wanted)), "UTC")
    return next((z for z in _all_zones() if _has(z, micros, wanted)), "UTC")


def offsets_of(micros: Array, zone: str) -> Any:
    """The UTC offsets in minutes of a time zone at given microseconds since 1970; None without a zone."""
    if not zone:
        return None
    try:
        there = zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BeelineError(f"zone={zone!r} is not a known time zone; give one such as Europe/Berlin") from None
    series = pandas().Series(micros.astype("datetime64[us]"))
    local = series.dt.tz_localize("UTC").dt.tz_convert(there).dt.tz_localize(None)
    return ((local - series).to_numpy().astype("timedelta64[s]").astype(np.int64) // 60).tolist()


def _all_zones() -> list[str]:
    return [*ZONES, *sorted(zoneinfo.available_timezones() - set(ZONES))]


def _has(zone: str, micros: Array, wanted: Array) -> bool:
    some = slice(None, None, max(1, len(micros) // 100))
    return all(offsets_of(micros[part], zone) == wanted[part].tolist() for part in (some, slice(None)))


def _iso(text: str, zoned: bool) -> int | None:
    """Nanoseconds since 1970 of an ISO datetime; None for other text."""
    try:
        stamp = pandas().Timestamp(text.strip())
        if stamp is pandas().NaT:
            return None
        datetime.date(stamp.year, stamp.month, stamp.day)
        if stamp.tz is not None:
            stamp = (stamp.tz_convert("UTC") if zoned else stamp).tz_localize(None)
        if stamp.unit in ("ns",):
            return int(stamp.value)
        return int(np.datetime64(stamp.to_datetime64(), "us").astype(np.int64)) * 1000
    except (ValueError, OverflowError, TypeError):
        return None


def _shown(stamp: int, nano: bool, zone: str) -> str:
    made = pandas().Timestamp(np.datetime64(stamp, "ns" if nano else "us"))
    return str(made.tz_localize("UTC").tz_convert(zone) if zone else made)
