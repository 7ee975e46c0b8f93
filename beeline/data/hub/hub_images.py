"""Images of Hugging Face data sets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.ranges import dataclass
from beeline.data.hub.features import Columns, columns_of
from beeline.data.hub.opening import library, splits
from beeline.data.labels import Array
from beeline.data.records.record_images import RecordImages, Records, classified


class HubRecords:
    """The images of one split, read from the memory-mapped files of the library."""

    def __init__(self, split: Any, where: str, column: str, label: str | None, names: Sequence[str] = ()):
        self.where, self.column = where, column
        self.labels: Array | None = None
        self.names: tuple[str, ...] = tuple(names)
        if label is not None:
            self.labels, self.names = _labels(split, f"{where}, column {label!r}", label, self.names)
        kept = split.select_columns([column])
        if column in columns_of(split.features).images:
            kept = kept.cast_column(column, library().Image(decode=False))
            self.split = kept
        else:
            self.split = kept.with_format("numpy")

    def __len__(self) -> int:
        return len(self.split)

    def contents(self, rows: Sequence[int]) -> Sequence[tuple[str, Any]]:
        cells = self.split[list(rows)][self.column]
        wheres = (f"{self.where}, row {row}, column {self.column!r}" for row in rows)
        return [(where, _content(cell)) for where, cell in zip(wheres, cells, strict=True)]


@dataclass(frozen=True)
class HubImages(RecordImages):
    """Images of a Hugging Face data set: one saved with save_to_disk, Parquet files, or hf:owner/name of the hub.

    The images are a column of the feature Image, or arrays of 8 bits [H,W] or [H,W,C].  Labels are a ClassLabel, or
    whole numbers or text in a column with a usual name.  A split test or validation is held out.
    Assumes the library ``datasets`` (pip install 'beeline[datasets]').

    >>> HubImages("hf:owner/name", resize=32).image is None
    True
    """

    image: str | None = None  # the column of the images; None for the only one, or the first

    def records(self) -> tuple[Records, Records | None]:
        return _records(self.path, self.image, self.label if self.labels else None, self.labels)

    def notes(self) -> list[str]:
        split = splits(self.path)[0]
        columns = columns_of(split.features)
        label = label_column(split, columns, self.label) if self.labels else None
        used = [image_column(split.features, columns, self.path, self.image)] + ([] if label is None else [label])
        return columns.lines(used)


@functools.lru_cache(maxsize=2)
def _records(path: str, image: str | None, label: str | None, labelled: bool) -> tuple[HubRecords, HubRecords | None]:
    train, held = splits(path)
    columns = columns_of(train.features)
    column = image_column(train.features, columns, path, image)
    labels = label_column(train, columns, label) if labelled else None
    names = columns.classes.get(labels or "", ())
    made = HubRecords(train, f"{path}, training split", column, labels, names)
    if held is None or column not in held.column_names:
        return made, None
    known = labels is None or (labels in held.column_names and not _unlabelled(held, labels))
    return made, HubRecords(held, f"{path}, held-out split", column, labels, made.names) if known else None


def image_column(features: Any, columns: Columns, path: str, given: str | None) -> str:
    """The column of the images: the one given, the first of the feature Image, or the first of 8-bit arrays."""
    arrays = [name for name in columns.arrays if pictured(features[name])]
    known = [*columns.images, *arrays]
    if given is not None:
        require(given in known, f"{path} has no column {given!r} of images; {nearest(given, known)}")
        return given
    require(known, f"{path} has no column of images; give another recipe, or name the column with image=")
    return known[0]


def pictured(feature: Any) -> bool:
    """Whether an array feature is an image: 8 bits, [H,W], [H,W,1] or [H,W,3]."""
    shape = tuple(feature.shape)
    return str(feature.dtype) in ("uint8",) and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


def _content(cell: Any) -> Any:
    """The bytes of an image, of its file where the data set has the path alone; an array as it is."""
    if isinstance(cell, np.ndarray):
        return cell.astype(np.uint8)
    if not isinstance(cell, dict):
        return None
    if cell.get("bytes") is None and cell.get("path") and Path(cell["path"]).is_file():
        return Path(cell["path"]).read_bytes()
    return cell.get("bytes")


def _labels(split: Any, where: str, label: str, names: tuple[str, ...]) -> tuple[Array, tuple[str, ...]]:
    """(class of every row, names of the classes); names that are known are kept."""
    cells = split.select_columns([label]).with_format("arrow")[:][label]
    missing = int(cells.null_count)
    require(not missing, f"{where} has {missing} missing labels; remove these rows, or set labels=False")
    found = cells.to_numpy()
    found = found.astype(str) if found.dtype == object else found
    require(
        found.dtype.kind in "iuU",
        f"{where} holds {found.dtype}; labels are whole numbers or text: convert them, or set labels=False",
    )
    if found.dtype.kind == "U" and names:
        odd = next((text for text in np.unique(found).tolist() if text not in names), None)
        if odd is not None:
            raise BeelineError(f"{where}: there is no class {odd!r}; {nearest(odd, names)}")
        return np.array([names.index(text) for text in found.tolist()]), names
    if not names:
        return classified(found)
    codes = found.astype(np.int64)
    if all(name.lstrip("-").isdigit() for name in names):  # values, not indices
        return np.array([names.index(str(code)) if str(code) in names else -1 for code in codes.tolist()]), names
    bad = (codes < 0) | (codes >= len(names))
    if bad.any():
        row = int(bad.argmax())
        raise BeelineError(
            f"{where}, row {row}: the label is {codes[row]}, outside 0 .. {len(names) - 1}; remove unlabelled rows, "
            "or set labels=False"
        )
    return codes, names


MOST = 1000  # classes of a column that is taken for labels by its name


def label_column(split: Any, columns: Columns, given: str | None) -> str | None:
    """The column of the labels: the one given, or one that holds classes by its feature or by its name and content."""
    found = columns.label(given)
    return found if found is None or given is not None or _classes(split, found, columns) else None


def _classes(split: Any, label: str, columns: Columns) -> bool:
    """Whether a column that nobody named holds classes, rather than text or numbers of other meaning."""
    if label in columns.classes:
        return not _unlabelled(split, label)
    kind = str(split.features[label].dtype)
    if not kind.startswith(("int", "uint", "string", "large_string")):
        return False
    distinct = len(split.unique(label))
    return distinct <= MOST and distinct <= max(1, len(split) // 2)


def _unlabelled(split: Any, label: str) -> bool:
    """Whether all labels are missing, as in the test split of a competition."""
    found = split.unique(label)
    return all(value is None or value == -1 for value in found)
