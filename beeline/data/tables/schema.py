"""Schemas: the kinds and settings of the columns of a table; they can be corrected in YAML."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar

import yaml

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.old_names import translate_columns


@dataclass(frozen=True)
class Column:
    """Settings of every column.  Empty cells are a state of their own, which is generated like any other."""

    name: str
    dtype: str = ""  # of the data frame; decoded cells have it
    missing: bool = False  # whether cells may be empty
    na_token: Any = None  # the text of an empty cell ("?", "NA"); None for an empty cell
    kind: ClassVar[str] = ""
    note: ClassVar[str] = ""

    def plain(self) -> dict[str, Any]:
        """Plain data; settings at their default are left out."""
        own = {f.name: vars(self)[f.name] for f in fields(self) if f.name != "name"}
        known = {f.name: f.default for f in fields(self)}
        large = {k: str(v) for k, v in own.items() if isinstance(v, int) and abs(v) >= 2**63}  # files hold 64 bits
        kept = {
            k: list(v) if isinstance(v, tuple) else large.get(k, v)
            for k, v in own.items()
            if v != known[k] and v is not None
        }
        return {"kind": self.kind, **kept}

    def words(self) -> str:
        """A short description for ``summary``."""
        return self.note


@dataclass(frozen=True)
class Number(Column):
    """Numbers, with bounds that generated values respect."""

    integer: bool = False  # whether all are integers
    decimals: int | None = None  # decimal places; None for any
    low: float | int | None = None  # lower bound of generated values
    high: float | int | None = None  # upper bound
    text: bool = False  # cells are text
    thousands: str = ""  # thousands separator of text cells, as in 52,515
    decimal: str = "."  # decimal sign of text cells
    least: int = 0  # smallest number of decimal places of text cells
    before: str = ""  # prefix of text cells, as in $5
    after: str = ""  # suffix of text cells, as in 29 %
    standard: bool = False  # standardise, instead of mapping quantiles to a normal distribution
    kind: ClassVar[str] = "number"

    def words(self) -> str:
        what = "whole" if self.integer else "any" if self.decimals is None else f"{self.decimals} decimals"
        unit = f", written {self.written}" if self.written else ""
        return f"{what}, {_short(self.low)} to {_short(self.high)}{unit}" + (", standardised" if self.standard else "")

    @property
    def textual(self) -> bool:
        """Whether its cells are text."""
        beside = self.before or self.after or self.thousands or self.decimal not in (".",)
        return bool(self.text or beside or self.na_token is not None)

    @property
    def written(self) -> str:
        """The text format of a number, as an example; empty for plain numbers."""
        if not self.thousands and self.decimal in (".",):
            return f"{self.before}...{self.after}" if self.before or self.after else ""
        return f"{self.before}1{self.thousands}234{'' if self.integer else self.decimal + '5'}{self.after}"

    @property
    def origin(self) -> int:
        """Offset that is subtracted from integers of more than 53 bits before conversion to float64."""
        low, high = self.low, self.high
        exact = self.integer and isinstance(low, int) and isinstance(high, int)
        return int(low) if exact and max(abs(low), abs(high)) > EXACT else 0  # type: ignore[arg-type]


@dataclass(frozen=True)
class Category(Column):
    """One of a set of levels."""

    levels: tuple[Any, ...] = ()  # most frequent first
    order: tuple[Any, ...] = ()  # categories of a data frame in their order, including unused ones
    ordered: bool = False  # whether they are ordered
    of: str = ""  # dtype of the categories
    kind: ClassVar[str] = "category"

    def words(self) -> str:
        shown = ", ".join(_short(level) for level in self.levels[:4])
        return f"{len(self.levels)} levels: {shown}" + (", ..." if len(self.levels) > 4 else "")


@dataclass(frozen=True)
class Boolean(Column):
    """True or false."""

    kind: ClassVar[str] = "boolean"
    note: ClassVar[str] = "true or false"


@dataclass(frozen=True)
class Datetime(Column):
    """Dates and times."""

    format: str | None = None  # strftime format of text cells; None for datetimes in the data frame
    months: tuple[str, ...] = ()  # month names in the text; () for Jan, Feb, ...
    zone: str = ""  # time zone of text with varying UTC offsets; "UTC" if no zone has them
    unit: str = "s"  # resolution: D, h, m, s, ms, us or ns
    low: str | None = None  # lower bound of generated values
    high: str | None = None  # upper bound
    kind: ClassVar[str] = "datetime"

    def words(self) -> str:
        written = "" if self.format is None else f", written {self.format}"
        return f"{self.low} to {self.high}, in {UNITS[self.unit][0]}{written}" + (self.zone and f" in {self.zone}")


@dataclass(frozen=True)
class Constant(Column):
    """The same value in every row."""

    value: Any = None
    kind: ClassVar[str] = "constant"

    def words(self) -> str:
        return f"always {_short(self.value)}"


@dataclass(frozen=True)
class Identifier(Column):
    """An identifier of the row, which is not learned but replaced by new numbers."""

    replace: bool = True  # False refuses the table
    text: bool = False  # written as text with a prefix
    kind: ClassVar[str] = "identifier"
    note: ClassVar[str] = (
        "NOT LEARNED: names the row, replaced by fresh numbers 1, 2, ...; give it a kind in the schema to learn it"
    )


EXACT = 2**53
"""Largest integer up to which all integers are exact in float64."""

UNITS: Mapping[str, tuple[str, int]] = {
    "D": ("days", 86_400_000_000_000),
    "h": ("hours", 3_600_000_000_000),
    "m": ("minutes", 60_000_000_000),
    "s": ("seconds", 1_000_000_000),
    "ms": ("milliseconds", 1_000_000),
    "us": ("microseconds", 1_000),
    "ns": ("nanoseconds", 1),
}
"""Unit of a datetime -> (name, length in nanoseconds), coarsest first."""

KINDS: Mapping[str, type[Column]] = {c.kind: c for c in (Number, Category, Boolean, Datetime, Constant, Identifier)}
"""The kinds of column by their names in files."""


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order.

    >>> schema = Schema((Number("age", integer=True, low=17.0, high=90.0), Category("sex", levels=("f", "m"))))
    >>> schema.change({"age": {"high": 100}})["age"].high
    100
    """

    columns: tuple[Column, ...]

    def __getitem__(self, name: str) -> Column:
        found = {c.name: c for c in self.columns}
        require(name in found, f"the table has no column {name!r}; {nearest(str(name), found)}")
        return found[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def change(self, corrections: Mapping[str, Mapping[str, Any]]) -> Schema:
        """The schema with some columns corrected, as in a YAML file; a new kind starts from that kind's defaults.

        Levels that are not given for a new kind are found in the data.
        """
        new = {c.name: c for c in self.columns}
        for key, given in corrections.items():
            name = str(key)
            new[name] = corrected(self[name], given)
        return Schema(tuple(new[c.name] for c in self.columns))

    def plain(self) -> dict[str, dict[str, Any]]:
        return {c.name: c.plain() for c in self.columns}

    def yaml(self) -> str:
        """The schema as YAML."""
        return yaml.safe_dump(self.plain(), sort_keys=False, width=110, allow_unicode=True)

    @classmethod
    def parse(cls, text: str) -> Schema:
        """The schema of a YAML file."""
        try:
            data = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
            reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
            raise BeelineError(
                f"the schema is not YAML ({reason}); correct it, or write one with Schema.yaml"
            ) from None
        require(
            isinstance(data, Mapping) and all(isinstance(v, Mapping) for v in data.values()),
            "the YAML is no schema; give every column a kind, as in 'age: {kind: number, integer: true}'",
        )
        return cls.of(translate_columns(data))

    @classmethod
    def of(cls, data: Mapping[str, Mapping[str, Any]]) -> Schema:
        """The schema of plain data."""
        return cls(tuple(_column(str(name), given) for name, given in data.items()))

    def summary(self) -> str:
        """The schema as text: name, kind, empty cells and settings of every column."""
        rows = [("column", "kind", "empty", "values")]
        for c in self.columns:
            empty = "" if not c.missing else f"yes, as {c.na_token!r}" if c.na_token is not None else "yes"
            rows.append((c.name, c.kind, empty, c.words()))
        wide = [max(len(str(row[i])) for row in rows) for i in range(3)]
        return "\n".join(
            "  ".join([*(str(r).ljust(w) for r, w in zip(row, wide, strict=False)), row[3]]) for row in rows
        )


def _column(name: str, given: Mapping[str, Any]) -> Column:
    kind = str(given.get("kind", ""))
    require(kind in KINDS, f"column {name!r} has kind {kind!r}, which is unknown; {nearest(kind, KINDS)}")
    return KINDS[kind](
        **_settings(name, KINDS[kind], {"name": name, **{k: v for k, v in given.items() if k != "kind"}})
    )


def corrected(column: Column, given: Mapping[str, Any]) -> Column:
    require(
        isinstance(given, Mapping),
        f"the correction of column {column.name!r} is {given!r}; give settings, as in {{kind: category}}",
    )
    kind = str(given.get("kind", column.kind))
    require(kind in KINDS, f"column {column.name!r} has kind {kind!r}, which is unknown; {nearest(kind, KINDS)}")
    rest = _settings(column.name, KINDS[kind], {k: v for k, v in given.items() if k != "kind"})
    if kind == column.kind:
        return replace(column, **rest)
    kept = {"name": column.name, "dtype": column.dtype, "missing": column.missing, "na_token": column.na_token}
    return KINDS[kind](**{**kept, **rest})


def _settings(name: str, kind: type[Column], given: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name: f for f in fields(kind)}
    made = {}
    for key, value in given.items():
        require(key in known, f"column {name!r} is a {kind.kind}, which has no setting {key!r}; {nearest(key, known)}")
        hint, default = str(known[key].type), known[key].default
        if hint.startswith("float | int") and isinstance(value, str) and re.fullmatch(r"-?\d{19,300}", value):
            value = int(value)
        if isinstance(value, datetime.date) and hint.startswith("str"):  # as YAML reads 2024-12-31
            value = str(value)
        if "float" in hint and "int" not in hint and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        fits = {"float": (float, int), "bool": (bool,), "tuple": (tuple, list), "int": (int,), "str": (str,)}
        allowed = next((types for word, types in fits.items() if hint.startswith(word)), None)
        empty = value is None and (default is None or default is MISSING)
        require(
            allowed is None or empty or _fits(value, allowed),
            f"column {name!r} has {key}={value!r}; it takes {hint}: correct the schema",
        )
        made[key] = tuple(value) if isinstance(value, list) else value
    return made


def _fits(value: Any, allowed: tuple[type, ...]) -> bool:
    """Whether a setting has one of some types; true is no number, and a number is finite."""
    if isinstance(value, bool):
        return bool in allowed
    return isinstance(value, allowed) and not (isinstance(value, float) and not math.isfinite(value))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed(items: Iterable[Any], most: int = 5) -> str:
    """The first ``most`` items of a list, for a message."""
    some = list(items)
    return ", ".join(map(str, some[:most])) + (f" and {len(some) - most} more" if len(some) > most else "")
