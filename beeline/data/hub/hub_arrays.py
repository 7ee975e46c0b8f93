"""Arrays of Hugging Face data sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.ranges import Inside, dataclass
from beeline.data.hub.features import columns_of
from beeline.data.hub.hub_images import HubRecords, label_column
from beeline.data.hub.opening import splits
from beeline.data.labels import divide
from beeline.data.modality import DataSetBase
from beeline.data.signals.arrays import Arrays, ArraySet


@dataclass(frozen=True)
class HubArrays(DataSetBase):
    """Arrays of a Hugging Face data set, of the feature Array2D [C,L] or Array3D [C,H,W], with labels if it has any.

    A split test or validation is held out; else a fixed random fraction is.  Numbers may be in any range.
    Assumes the library ``datasets`` (pip install 'beeline[datasets]'), and that the arrays fit in memory.

    >>> HubArrays("spectra").held_out
    0.1
    """

    path: str  # a folder of save_to_disk, Parquet files, or hf:owner/name
    array: str | None = None  # the column of the arrays; None for the first
    label: str | None = None  # the column of the labels; None for the usual names, if present
    labels: bool = True  # False ignores labels
    held_out: Inside = 0.1  # held-out fraction of data without a test split

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))

    def modality(self) -> Arrays:
        return Arrays()

    def load(self) -> tuple[ArraySet, ArraySet]:
        """(training, held-out) arrays."""
        train, held = splits(self.path)
        raw = self._read(train)
        if held is not None:
            return raw, self._read(held, raw.names)
        learn, keep = divide(len(raw), self.held_out, self.path)
        return raw.rows(learn), raw.rows(keep)

    def summary(self) -> str:
        """Number, shape and type of the arrays, and the columns that are not learned."""
        split = splits(self.path)[0]
        columns = columns_of(split.features)
        name = self._column(columns.arrays)
        label = label_column(split, columns, self.label) if self.labels else None
        feature = split.features[name]
        return "\n".join(
            [
                f"{self.path}: {len(split):,} arrays {tuple(feature.shape)} of {feature.dtype} in column {name!r}",
                *columns.lines([name] + ([] if label is None else [label])),
            ]
        )

    def _column(self, known: tuple[str, ...]) -> str:
        require(known, f"{self.path} has no column of arrays of one shape; give another recipe")
        name = known[0] if self.array is None else self.array
        require(name in known, f"{self.path} has no column {name!r} of arrays; {nearest(name, known)}")
        return name

    def _read(self, split: Any, names: tuple[str, ...] = ()) -> ArraySet:
        columns = columns_of(split.features)
        name = self._column(columns.arrays)
        label = label_column(split, columns, self.label) if self.labels else None
        found = HubRecords(split, self.path, name, label, names or columns.classes.get(label or "", ()))
        values = np.asarray(found.split[:][name])
        try:
            return ArraySet(values, found.labels, found.names if found.labels is not None else ())
        except BeelineError as error:
            raise BeelineError(f"{self.path}, column {name!r}: {error}") from None
