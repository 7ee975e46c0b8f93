"""Data sets of points: .npy and .csv files, and samples of exact distributions."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.ranges import Inside, dataclass
from beeline.core.rng import Rng
from beeline.data.arrays import read_arrays
from beeline.data.distributions.distribution import Distribution
from beeline.data.labels import Array, check_labels, divide, existing
from beeline.data.modality import DataSetBase
from beeline.data.points import Points, PointSet, refuse_nonfinite

LABEL_ARRAYS = ("label", "labels", "y")
"""Names of an array of labels in an .npz file."""
CLASS_NAMES = "names"  # of an array with the names of the classes in an .npz file


@dataclass(frozen=True)
class PointFile(DataSetBase):
    """Points from a .npy file [N] or [N,D], an .npz file with labels beside them, or a .csv file with one point a line.

    The first line is a header if it has no numbers, or the numbers 0 .. D-1 (as pandas writes an array); else the
    columns are x0, x1, ...  A first column without a name that counts the rows is dropped.
    Assumes finite numbers in all columns but the label.  The separator is comma, semicolon or tab.
    Labels are integers from 0, or text, whose classes are sorted alphabetically.

    >>> PointFile("points.csv", label="kind").modality()
    Points(columns=(), mean=(), std=(), classes=0, names=(), standardise=True)
    """

    path: str  # a .npy, .npz or .csv file
    label: str | None = None  # name of the label column (x0, x1, ... without a header)
    columns: tuple[str, ...] | None = None  # the columns that are used; None for all but the label
    held_out: Inside = 0.1  # held-out fraction, between 0 and 1
    standardise: bool = True  # False leaves values unchanged, as for points on a manifold

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        object.__setattr__(self, "columns", None if self.columns is None else tuple(self.columns))

    def modality(self) -> Points:
        return Points(standardise=self.standardise)

    def read(self) -> tuple[PointSet, None]:
        """(all points in the order of the file, None); ValueError names the file, the line or row, and the column."""
        place = existing(self.path)
        if place.suffix in (".npy", ".npz"):
            columns, lines = _array(place)
        elif place.suffix in (".csv", ".tsv", ".txt"):
            columns, lines = _lines(place)
        else:
            raise BeelineError(f"{place} is no file of points; give a .npy, .npz or .csv file")
        names = tuple(columns)
        for name in (*(self.columns or ()), *((self.label,) if self.label is not None else ())):
            require(name in names, f"{place} has no column {name!r}; {nearest(name, names)}")
        unused = {self.label} | (set(LABEL_ARRAYS) if place.suffix == ".npz" else set())
        kept = self.columns if self.columns is not None else tuple(n for n in names if n not in unused)
        require(
            kept and self.label not in kept,
            f"{place}: columns is {', '.join(kept) or 'none'} and the label is {self.label!r}; give at least one "
            "column, and not the label",
        )
        values = _numbers(np.stack([columns[name] for name in kept], 1), kept, lines, place)
        labels: Array | None = None
        classes: tuple[str, ...] = ()
        if self.label is not None:
            where = f"{place}, column {self.label!r}"
            labels, classes = _labels(columns[self.label], lines, where)
        return PointSet(values, kept, labels, classes), None

    def read_file(self, path: str) -> PointSet:
        return replace(self, path=path).read()[0]

    def load(self) -> tuple[PointSet, PointSet]:
        """(training, held-out) points."""
        raw, place = self.read()[0], self.path
        train, held = divide(len(raw), self.held_out, place)
        if raw.labels is not None:
            # classes come from the whole file, so all rows of a rare one may be held out
            seen = raw.rows(train).labels
            assert seen is not None
            classless = np.setdiff1d(raw.labels, seen)
            require(
                not len(classless),
                f"{place}: all rows with the label {classless[:1].tolist()} are held out, so it "
                "cannot be learned; give more rows with it, or a smaller held_out",
            )
        return raw.rows(train), raw.rows(held)


@dataclass(frozen=True)
class DistributionData(DataSetBase):
    """A finite sample of an exact distribution: ``n`` training points and ``kept`` held-out points.

    x1 ~ distribution, with the random key ``seed``
    Values are not standardised by default, so the density and velocity of the distribution are those of the flow.

    >>> from beeline.data.distributions.mixtures import GaussianMixture
    >>> DistributionData(GaussianMixture.ring(), n=100).load()[0].values.shape
    (100, 2)
    """

    distribution: Distribution
    n: int = 20_000  # training points
    kept: int = 5_000  # held-out points
    seed: int = 0
    standardise: bool = False  # whether columns are standardised to mean 0 and standard deviation 1

    def __post_init__(self) -> None:
        require(
            self.n >= 1 and self.kept >= 1,
            f"DistributionData got n={self.n}, kept={self.kept}, but each of them is at least 1",
        )

    def modality(self) -> Points:
        return Points(standardise=self.standardise, classes=self.distribution.classes)

    def load(self) -> tuple[PointSet, PointSet]:
        """(training, held-out) points, with labels if the distribution has them."""
        return self._part("train", self.n), self._part("held-out", self.kept)

    def _part(self, name: str, n: int) -> PointSet:
        x, labels = self.distribution.sample_labelled(n, Rng(self.seed).fork(name), None)
        return PointSet(x.to(torch.float64).numpy(), labels=None if labels is None else labels.numpy())


def _array(place: Path) -> tuple[dict[str, Array], list[int]]:
    """(columns [N] by name, row numbers) of an array of points and its labels."""
    arrays = read_arrays(place)
    labels = {name: array for name, array in arrays.items() if name in LABEL_ARRAYS}
    names = arrays.get(CLASS_NAMES)
    names = None if names is None or names.dtype.kind not in "U" else names
    others = {k: array for k, array in arrays.items() if k not in labels and (names is None or k != CLASS_NAMES)}
    require(
        len(others) == 1,
        f"{place} holds the arrays {', '.join(arrays) or 'none'}; a file of points has one array of points, and may "
        f"have one of labels ({', '.join(LABEL_ARRAYS)}) and one of the {CLASS_NAMES} of their classes",
    )
    values = next(iter(others.values()))
    values = values[:, None] if values.ndim == 1 else values
    require(
        values.ndim == 2 and 0 not in values.shape and values.dtype.kind in "iuf",
        f"{place} holds {values.dtype} of shape {values.shape}; points are numbers [N] or [N,D], one row per point",
    )
    for name, array in labels.items():
        require(
            array.shape == (len(values),) and array.dtype.kind in "iufU",
            f"{place} holds {name!r} of {array.dtype} and shape {array.shape}; labels are whole numbers or text [N]",
        )
        if names is not None and array.dtype.kind in "iu":
            labels[name] = names[check_labels(array, len(values), len(names), f"{place}, array {name!r}")]
    return {f"x{i}": values[:, i] for i in range(values.shape[1])} | labels, list(range(len(values)))


def _lines(place: Path) -> tuple[dict[str, Array], list[int]]:
    """(columns [N] of cells as text by name, line number of every row) of a text file; lines count from 1."""
    try:
        with place.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=_separator(place), skipinitialspace=True, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BeelineError(f"{place} cannot be read as text ({error}); save it as CSV in UTF-8") from error
    require(rows, f"{place} is empty; give at least two lines of numbers")
    first = [cell.strip() for cell in rows[0][1]]
    headed = _is_header(first)
    if headed and not first[0] and all(row[:1] == [str(i)] for i, (_, row) in enumerate(rows[1:])):
        # an index column, as pandas writes it
        rows, first = [(line, row[1:]) for line, row in rows], first[1:]
    names = tuple(first) if headed else tuple(f"x{i}" for i in range(len(first)))
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{place}, line 1: {len(twice)} column name(s) appear twice, first {twice[:1]}; rename one")
    rows = rows[headed:]
    require(rows, f"{place} has a header but no lines of numbers; give at least two")
    for line, row in rows:
        require(
            len(row) == len(names),
            f"{place}, line {line}: there are {len(row)} cells where line {1 if headed else rows[0][0]} has "
            f"{len(names)}; correct the line",
        )
    cells = np.array([row for _, row in rows], dtype=str)
    return dict(zip(names, cells.T, strict=True)), [line for line, _ in rows]


def _separator(place: Path) -> str:
    """The separator that splits the first lines into most cells; quotes are respected."""
    with place.open(newline="", encoding="utf-8-sig") as file:
        head = [line for line in itertools.islice(file, 20) if line.strip()]
    return max(",;\t", key=lambda sign: min((len(row) for row in csv.reader(head, delimiter=sign)), default=0))


def _is_header(first: list[str]) -> bool:
    """Whether the first line is a header: text only, or the numbers 0 .. D-1."""
    named = [cell for cell in first if cell]
    return not any(map(_is_number, first)) or (len(first) > 1 and named == [str(i) for i in range(len(named))])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: Array, names: tuple[str, ...], lines: list[int], place: Path) -> Array:
    """Finite float64 numbers; ValueError names the line (the row of an array) and the column."""
    if cells.dtype.kind != "U":
        refuse_nonfinite(cells, str(place), names)
        return cells.astype(np.float64)
    try:
        values = cells.astype(np.float64)
        if np.isfinite(values).all():
            return values
    except ValueError:
        pass
    for line, row in zip(lines, cells, strict=True):
        for name, cell in zip(names, row, strict=True):
            require(
                _is_number(cell) and math.isfinite(float(cell)),
                f"{place}, line {line}, column {name!r}: got {str(cell)!r}; points are finite numbers; remove the "
                "line, fill the gap, or leave the column out with columns=",
            )
    raise AssertionError("a cell is odd, but none was found")


def _labels(cells: Array, lines: list[int], where: str) -> tuple[Array, tuple[str, ...]]:
    """(labels as integers, class names); names are empty where the labels are numbers."""
    if cells.dtype.kind == "U":
        cells = np.char.strip(cells)
        empty = cells == ""
        require(
            not empty.any(),
            f"{where}, line {lines[int(empty.argmax())]}: the label is missing; remove the line",
        )
        if not all(_is_number(cell) for cell in cells):
            names = sorted(set(cells.tolist()))
            return np.searchsorted(names, cells), tuple(names)
        cells = cells.astype(np.float64)
    bad = ~(np.isfinite(cells) & (cells == np.floor(cells)) & (cells >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise BeelineError(
            f"{where}, line {lines[row]}: the label is {cells[row]:g}, but labels are integers from 0, or "
            "text; number the classes"
        )
    return check_labels(cells, len(cells), None, where), ()
