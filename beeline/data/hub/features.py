"""The columns of a Hugging Face data set by what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beeline.core.errors import BeelineError, nearest, require

LABELS = ("label", "labels", "class", "y", "target")
"""Names of a column of labels, the preferred one first."""
SCALARS = ("int", "uint", "float", "double", "bool", "string", "large_string", "date", "time", "timestamp", "duration",
           "decimal")  # fmt: skip
"""Beginnings of the types of a Value that a table has."""


@dataclass(frozen=True)
class Columns:
    """The columns of a data set by kind, each with its feature as text."""

    images: tuple[str, ...]
    arrays: tuple[str, ...]  # of one shape, which the type gives
    scalars: tuple[str, ...]  # numbers, text, dates, truth values, and labels
    classes: Mapping[str, tuple[str, ...]]  # names of the classes of ClassLabel columns
    unknown: Mapping[str, str]  # column -> its type, of the rest

    def label(self, given: str | None = None) -> str | None:
        """The column of the labels: the one given, a usual name, or the first ClassLabel; None without any."""
        if given is not None:
            require(given in self.scalars, f"there is no column {given!r} of labels; {nearest(given, self.scalars)}")
            return given
        usual = next((name for name in LABELS if name in self.scalars), None)
        return usual if usual is not None else next(iter(self.classes), None)

    def lines(self, used: Sequence[str]) -> list[str]:
        """A line for each kind of column that is not learned, and why."""
        rest = [name for name in (*self.images, *self.arrays, *self.scalars) if name not in used]
        lines = [f"  not learned: {', '.join(rest)} (beside {used[0]})"] if rest else []
        return lines + [f"  not learned: {name} (a column of {kind})" for name, kind in self.unknown.items()]


def columns_of(features: Mapping[str, Any]) -> Columns:
    """The columns of a mapping from names to features of the library."""
    images, arrays, scalars, classes, unknown = [], [], [], {}, {}
    for name, feature in features.items():
        kind, names = _kind(feature)
        if kind == IMAGE:
            images.append(name)
        elif kind == ARRAY:
            arrays.append(name)
        elif kind == SCALAR:
            scalars.append(name)
        else:
            unknown[name] = _text(feature)
        if names:
            classes[name] = names
    return Columns(tuple(images), tuple(arrays), tuple(scalars), classes, unknown)


IMAGE, ARRAY, SCALAR, UNKNOWN = range(4)


def _kind(feature: Any) -> tuple[int, tuple[str, ...]]:
    """The kind of a feature, and its class names; a feature is one of the library or its description in a file."""
    described = feature if isinstance(feature, Mapping) else _described(feature)
    kind = described.get("_type")
    if kind == "Image":
        return IMAGE, ()
    if kind == "ClassLabel":
        return SCALAR, tuple(str(name) for name in described.get("names") or ())
    if kind in ("Array2D", "Array3D"):
        fixed = all(isinstance(n, int) for n in described.get("shape") or ())
        return (ARRAY if fixed else UNKNOWN), ()
    if kind == "Value" and str(described.get("dtype", "")).startswith(SCALARS):
        return SCALAR, ()
    return UNKNOWN, ()


def _described(feature: Any) -> Mapping[str, Any]:
    """A feature of the library as its description in a file; {} for nested ones, which have none."""
    if isinstance(feature, list | dict):
        return {}
    return {"_type": type(feature).__name__, **vars(feature)}


def _text(feature: Any) -> str:
    described = feature if isinstance(feature, Mapping) and "_type" in feature else _described(feature)
    return str(described.get("_type", type(feature).__name__))


def stored_features(schema: Any) -> Mapping[str, Any]:
    """The features in the metadata of an Arrow schema, as the library writes them into Parquet; {} without any."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        found = info["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def with_class_names(table: Any, classes: Mapping[str, Sequence[str]]) -> Any:
    """An Arrow table with the names of classes in place of their numbers; -1, which is no class, is missing."""
    for name, names in classes.items():
        place = table.column_names.index(name) if name in table.column_names else None
        if place is None or not names:
            continue
        codes = table.column(place).to_pylist()
        texts = [None if code is None or not 0 <= code < len(names) else names[code] for code in codes]
        table = table.set_column(place, name, [texts])
    return table


def refuse_unknown(columns: Columns, where: str) -> None:
    """Refuse a data set of which no column can be learned, or a table with columns that no table has."""
    if columns.images or columns.arrays or (columns.scalars and not columns.unknown):
        return
    found = ", ".join(f"{name!r} of {kind}" for name, kind in columns.unknown.items()) or "no columns"
    raise BeelineError(
        f"{where} has {found}, and what no recipe learns is refused rather than dropped; known are images, arrays of "
        "one shape, numbers, text, dates and labels: leave the other columns out, with "
        "remove_columns([...]).save_to_disk(...), or convert them"
    )
