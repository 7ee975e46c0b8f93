"""The modality of points: vectors of numbers, standardised by column."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.files import replacing
from beeline.core.ranges import Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.arrays import as_array, as_frame, coded, no_labels
from beeline.data.labels import (
    Array,
    check_labels,
    class_indices,
    classes_of,
    label_condition,
    label_conditions,
    labels_of,
    numeric,
    stored_labels,
)
from beeline.data.modality import ModalityBase


@dataclass(frozen=True, eq=False)
class PointSet:
    """Points with named columns, and optional labels."""

    values: Array  # float64 [N,D], finite
    columns: tuple[str, ...] = ()  # D names; x0, x1, ... by default
    labels: Array | None = None  # int64 [N], from 0
    names: tuple[str, ...] = ()  # of the classes, in the order of their labels; empty if unknown

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        require(
            values.ndim == 2 and 0 not in values.shape and values.dtype.kind in "iuf",
            f"the points are {values.dtype} of shape {values.shape}; give numbers [N,D], one row per point",
        )
        values = values.astype(np.float64)
        columns = tuple(self.columns) or tuple(f"x{i}" for i in range(values.shape[1]))
        require(
            len(columns) == values.shape[1],
            f"there are {len(columns)} column names for {values.shape[1]} columns; give one per column",
        )
        refuse_nonfinite(values, "the points", columns)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "names", tuple(self.names))
        if self.labels is not None:
            labels = check_labels(self.labels, len(values), len(self.names) or None, "labels")
            object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The values [N,D], so that NumPy functions take points."""
        return np.array(self.values, dtype) if copy else np.asarray(self.values, dtype)

    def rows(self, index: Any) -> PointSet:
        """The points at ``index``, an integer array or a slice."""
        labels = None if self.labels is None else self.labels[index]
        return PointSet(self.values[index], self.columns, labels, self.names)


@dataclass(frozen=True)
class Points(ModalityBase):
    """Points with every column standardised to mean 0 and standard deviation 1.

    x = (value - mean) / std, by column;  value = mean + std x
    Assumes that no column is constant.  Computed in float64, encoded in float32.

    >>> raw = PointSet(np.array([[0.0, 10.0], [2.0, 30.0]]))
    >>> Points().fit(raw).encode(raw).x1
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """

    columns: tuple[str, ...] = ()  # D names, set by ``fit``
    mean: tuple[float, ...] = ()  # of each column, set by ``fit``
    std: tuple[float, ...] = ()  # of each column, above 0, set by ``fit``
    classes: Whole = 0  # number of classes, 0 without labels; set by ``fit``
    names: tuple[str, ...] = ()  # of the classes; empty if unknown
    standardise: bool = True  # False leaves values unchanged: mean 0, std 1
    preview_type = "image/png"
    formats = (".csv", ".npz", ".npy", ".png", "")  # that ``save`` writes; the last is a directory
    previewed = 1000

    def __post_init__(self) -> None:
        kept = {"columns": self.columns, "mean": self.mean, "std": self.std, "names": self.names}
        for name, values in kept.items():
            object.__setattr__(self, name, tuple(values))
        require(
            len(self.mean) == len(self.std) == len(self.columns) and all(s > 0 for s in self.std),
            f"Points got {len(self.columns)} columns, {len(self.mean)} means and {len(self.std)} standard deviations "
            "(above 0), where there is one of each per column; leave them out and fit the modality",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,), empty before fitting."""
        return (len(self.columns),) if self.columns else ()

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        return label_conditions(self.classes)

    def fit(self, raw: PointSet) -> Points:
        """A new modality with the columns, scales and classes of ``raw``."""
        if self.standardise:
            mean, std = raw.values.mean(0), raw.values.std(0)
            flat = ~(std > 1e-12 * np.abs(mean))
            if flat.any():
                column = int(flat.argmax())
                raise BeelineError(
                    f"the column {raw.columns[column]!r} has the value {raw.values[0, column]:g} in all "
                    f"{len(raw)} rows, so it cannot be standardised; leave it out with columns=, or give more rows"
                )
        else:
            mean, std = np.zeros(len(raw.columns)), np.ones(len(raw.columns))
        classes, names = classes_of(raw.labels, raw.names, self.classes)
        return replace(
            self,
            columns=raw.columns,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            classes=classes,
            names=names,
        )

    def raw(self, values: Any, labels: Any = None) -> PointSet:
        """Points from [N], [N,D] or a data frame with the columns of the model, and their labels."""
        if isinstance(values, PointSet):
            no_labels(labels, "PointSet, which holds its own")
            return values
        frame = as_frame(values)
        array = as_array(values) if frame is None else frame[list(self.columns)].to_numpy()
        require(
            array is not None,
            f"the points are {type(values).__name__}; give an array, a tensor [N,D] or a data frame",
        )
        assert array is not None
        array = array[:, None] if array.ndim == 1 else array
        if labels is None:
            return PointSet(array, self.columns)
        return PointSet(array, self.columns, *coded(labels, len(array), self.names))

    def encode(self, raw: PointSet, rng: Rng | None = None) -> Batch:
        """Standardised float32 [N,D] and labels; ``rng`` is not used."""
        require(
            raw.columns == self.columns,
            f"the points have the columns {', '.join(raw.columns)}, but the modality has "
            f"{', '.join(self.columns) or 'none yet'}; "
            + ("give the same columns in the same order" if self.columns else "fit it first: modality.fit(raw)"),
        )
        x = torch.from_numpy((raw.values - np.asarray(self.mean)) / np.asarray(self.std)).float()
        if not self.classes or raw.labels is None:  # generated points have no labels
            return Batch(x)
        labels = class_indices(raw.labels, len(raw), raw.names, self.classes, self.names)
        return Batch(x, cond={"label": torch.from_numpy(labels)})

    def decode(self, x: Tensor) -> PointSet:
        """Points from standardised [N,D]."""
        require(
            x.shape[1:] == self.shape and bool(x.isfinite().all()),
            f"a tensor of shape {tuple(x.shape)} cannot be decoded to points of shape {self.shape or '()'}, or is not "
            "finite; give finite [N,D] of that shape, and fit the modality first",
        )
        values = x.detach().cpu().double().numpy() * np.asarray(self.std) + np.asarray(self.mean)
        return PointSet(values, self.columns)

    def condition(self, value: Any, n: int) -> Cond:
        """Labels [n] of {"label": 3}, 3, a class name, one of these per sample, or None (the null label)."""
        return label_condition(value, n, self.classes, self.names)

    def with_condition(self, raw: PointSet, value: Any) -> PointSet:
        labels = labels_of(value, len(raw), self.classes, self.names)
        return PointSet(raw.values, raw.columns, labels, () if labels is None or numeric(self.names) else self.names)

    def preview(self, raw: PointSet, most: int = 5000) -> bytes:
        """A PNG: a scatter plot of the first two columns, or a histogram of a single column."""
        return self._plot(raw, None, most)

    def preview_beside(self, made: PointSet, real: PointSet) -> bytes:
        """A PNG like ``preview``, with real data in grey behind the generated ones."""
        return self._plot(made, real.values, 5000)

    def _plot(self, raw: PointSet, behind: Array | None, most: int) -> bytes:
        from matplotlib.figure import Figure

        shown = raw.values[:most]
        figure = Figure(figsize=(4, 4), layout="constrained")
        axes = figure.add_subplot()
        if shown.shape[1] == 1:
            bins = np.histogram_bin_edges(shown[:, 0] if behind is None else behind[:, 0], 60).tolist()
            if behind is not None:
                axes.hist(behind[:, 0], bins, density=True, color="0.8")
            axes.hist(shown[:, 0], bins, density=behind is not None, histtype="step" if behind is not None else "bar")
        else:
            if behind is not None:
                axes.scatter(behind[:most, 0], behind[:most, 1], s=3, c="0.75", linewidths=0)
            colour = None if raw.labels is None else raw.labels[:most]
            axes.scatter(
                shown[:, 0], shown[:, 1], s=3, c=colour, cmap=None if colour is None else "tab10", linewidths=0
            )
            axes.set_ylabel(raw.columns[1])
        axes.set_xlabel(raw.columns[0])
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=100)
        return out.getvalue()

    def save(self, raw: PointSet, path: Path) -> None:
        """Write points and their labels (.csv, .npz), points alone (.npy) or the preview (.png).

        A directory gets ``points.csv`` and ``preview.png``.  The column ``label`` of a .csv file holds the names of
        the classes where they have some.
        """
        if path.suffix == "":
            self.save(raw, path / "points.csv")
            self.save(raw, path / "preview.png")
            return
        with replacing(path) as file, open(file, "wb") as out:
            if path.suffix == ".npy":
                np.save(out, raw.values)
            elif path.suffix == ".npz":
                labels: Any = stored_labels(raw.labels, raw.names)
                np.savez_compressed(out, points=raw.values, **labels)
            elif path.suffix == ".csv":
                _write_csv(out, raw)
            else:
                out.write(self.preview(raw))


def _write_csv(out: BinaryIO, raw: PointSet) -> None:
    """Write a line per point, with the column ``label`` where there are labels."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    rows = raw.values.tolist()  # the shortest digits that read back exactly
    if raw.labels is None:
        writer.writerow(raw.columns)
        writer.writerows(rows)
    else:
        labels = [raw.names[k] if raw.names else k for k in raw.labels.tolist()]
        writer.writerow([*raw.columns, "label"])
        writer.writerows([*row, label] for row, label in zip(rows, labels, strict=True))
    text.flush()
    text.detach()


def refuse_nonfinite(values: Array, where: str, columns: Sequence[str], first: int = 0) -> None:
    """Refuse NaN and infinite values; ValueError names the row, counted from ``first``, and the column."""
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise BeelineError(
            f"{where}, row {row + first}, column {columns[column]!r}: the value is {values[row, column]}; "
            "points are finite; remove the row, or fill the gap"
        )
