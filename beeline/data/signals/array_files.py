"""Data sets of arrays in .npy and .npz files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.ranges import Inside, dataclass
from beeline.data.arrays import read_arrays
from beeline.data.labels import Array, check_labels, divide, existing, numbered
from beeline.data.modality import DataSetBase
from beeline.data.point_files import CLASS_NAMES, LABEL_ARRAYS
from beeline.data.signals.arrays import Arrays, ArraySet


@dataclass(frozen=True)
class ArrayFile(DataSetBase):
    """Signals [N,C,L] or images [N,C,H,W] of numbers in any range, from a .npy file or an .npz file with labels.

    (training, held-out) arrays, with 1 - held_out and held_out of the file
    Channels in the last axis, as in [N,H,W,C], are recognised where that axis has at most 4 entries and the second one
    has more.  Labels are integers from 0, or text, whose classes are sorted alphabetically.

    >>> ArrayFile("ecg.npy").modality().formats
    ('.npy', '.npz', '.png', '')
    """

    path: str  # a .npy or .npz file
    array: str | None = None  # the array of an .npz file with several; None for the only one that is not labels
    label: str | None = None  # the array of the labels in an .npz file; None for label, labels or y, if present
    last: bool | None = None  # whether the last axis has the channels; None is recognised by the sizes
    held_out: Inside = 0.1  # held-out fraction, between 0 and 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))

    def modality(self) -> Arrays:
        return Arrays(last=self._last(self._header()))

    def read(self) -> ArraySet:
        """All arrays in the order of the file; ValueError names the file."""
        place = existing(self.path)
        require(
            place.suffix in (".npy", ".npz"),
            f"{place} is no file of arrays by its name; give a .npy or .npz file",
        )
        found = read_arrays(place)
        values = found[self._name(found)]
        labels, names = self._labels(found, len(values))
        values = np.moveaxis(values, -1, 1) if self._last(values.shape) else values
        try:
            return ArraySet(values, labels, names)
        except BeelineError as error:
            raise BeelineError(f"{place}: {error}") from None

    def read_file(self, path: str) -> ArraySet:
        return replace(self, path=path).read()

    def load(self) -> tuple[ArraySet, ArraySet]:
        """(training, held-out) arrays."""
        raw = self.read()
        train, held = divide(len(raw), self.held_out, self.path)
        return raw.rows(train), raw.rows(held)

    def summary(self) -> str:
        """Number, shape, type and range of the arrays as text."""
        raw = self.read()
        kind = ("channels", "length") if raw.values.ndim == 3 else ("channels", "height", "width")
        sizes = ", ".join(f"{n} {word}" for word, n in zip(kind, raw.values.shape[1:], strict=True))
        low, high = raw.values.min(), raw.values.max()
        lines = [f"{self.path}: {len(raw):,} arrays, {sizes}; {raw.values.dtype} from {low:.6g} to {high:.6g}"]
        if raw.labels is not None:
            lines.append(f"  {len(np.unique(raw.labels))} labels")
        return "\n".join(lines)

    def _header(self) -> tuple[int, ...]:
        """The shape of the arrays in the file; () where there is none, which ``read`` refuses."""
        from beeline.data.arrays import array_headers

        place = Path(self.path).expanduser()
        if not place.is_file() or place.suffix not in (".npy", ".npz"):
            return ()
        headers = array_headers(place)
        return tuple(headers[self._name(headers)].shape)

    def _last(self, shape: tuple[int, ...]) -> bool:
        return self.last if self.last is not None else len(shape) == 4 and shape[3] <= 4 < shape[1]

    def _name(self, found: Any) -> str:
        """The array of the data among those of a file, by name."""
        if self.array is not None:
            require(self.array in found, f"{self.path} has no array {self.array!r}; {nearest(self.array, found)}")
            return self.array
        others = [name for name in found if name not in (*LABEL_ARRAYS, CLASS_NAMES, self.label)]
        require(
            len(others) == 1,
            f"{self.path} holds the arrays {', '.join(found) or 'none'}, of which one is learned, beside one of labels "
            f"({', '.join(LABEL_ARRAYS)}); name it: --set data.array={others[0] if others else 'NAME'}",
        )
        return others[0]

    def _labels(self, found: dict[str, Array], n: int) -> tuple[Array | None, tuple[str, ...]]:
        """(labels as integers, class names); names are empty where the labels are numbers."""
        require(
            self.label is None or self.label in found,
            f"{self.path} has no array {self.label!r} for the labels; {nearest(self.label or '', found)}",
        )
        name = self.label or next((name for name in LABEL_ARRAYS if name in found), None)
        if name is None:
            return None, ()
        where = f"{self.path}, array {name!r}"
        names = [str(text) for text in found[CLASS_NAMES].tolist()] if CLASS_NAMES in found else ()
        labels, known = numbered(found[name], names, where)
        return check_labels(labels, n, len(known) or None, where), known
