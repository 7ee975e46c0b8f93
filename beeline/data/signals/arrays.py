"""The modality of arrays: signals [C,L] and images [C,H,W] of numbers in any range, standardised by channel."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.files import replacing
from beeline.core.ranges import Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.arrays import as_array, coded, no_labels
from beeline.data.images import Image, Images
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
class ArraySet:
    """Arrays of one shape, with optional labels."""

    values: Array  # integers or floats [N,C,L] or [N,C,H,W], finite
    labels: Array | None = None  # int64 [N], from 0
    names: tuple[str, ...] = ()  # of the classes, in the order of their labels; empty if unknown

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        require(
            values.dtype.kind in "iuf" and values.ndim in (3, 4) and 0 not in values.shape,
            f"the arrays are {values.dtype} of shape {values.shape}; give numbers [N,C,L] or [N,C,H,W], at least one",
        )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "names", tuple(self.names))
        for start in range(0, len(values) if values.dtype.kind == "f" else 0, 1024):
            refuse_nonfinite(values[start : start + 1024], start)
        if self.labels is not None:
            labels = check_labels(self.labels, len(values), len(self.names) or None, "labels")
            object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The values, so that NumPy functions take them."""
        return np.array(self.values, dtype) if copy else np.asarray(self.values, dtype)

    def rows(self, index: Any) -> ArraySet:
        """The arrays at ``index``, an integer array or a slice."""
        return ArraySet(self.values[index], None if self.labels is None else self.labels[index], self.names)


@dataclass(frozen=True)
class Arrays(ModalityBase):
    """Arrays with every channel standardised to mean 0 and standard deviation 1.

    x = (value - mean) / std, by channel;  value = mean + std x
    Signals [C,L] are encoded as [C,1,L], so that networks for images take them.  A constant channel is encoded as zeros
    and decoded to its value.  Whole numbers are rounded when they are decoded, within the range of their type.

    >>> raw = ArraySet(np.array([[[0.0, 10.0]], [[20.0, 30.0]]]))
    >>> modality = Arrays().fit(raw)
    >>> modality.shape, modality.decode(modality.encode(raw).x1).values[1].round(4).tolist()
    ((1, 1, 2), [[20.0, 30.0]])
    """

    sizes: tuple[int, ...] = ()  # (C,L) or (C,H,W), set by ``fit``
    mean: tuple[float, ...] = ()  # of each channel, set by ``fit``
    std: tuple[float, ...] = ()  # of each channel, 0 or more, set by ``fit``
    dtype: str = "float32"  # of decoded arrays, that of the data; set by ``fit``
    last: bool = False  # whether files have the channels in the last axis: [N,H,W,C] or [N,L,C]
    classes: Whole = 0  # number of classes, 0 without labels; set by ``fit``
    names: tuple[str, ...] = ()  # of the classes; empty if unknown
    preview_type = "image/png"
    formats = (".npy", ".npz", ".png", "")  # that ``save`` writes; the last is a directory with one .npy per array

    def __post_init__(self) -> None:
        for name in ("sizes", "mean", "std", "names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(
            len(self.mean) == len(self.std) == (self.sizes[0] if self.sizes else 0)
            and len(self.sizes) in (0, 2, 3)
            and all(s >= 0 for s in self.std),
            f"Arrays got sizes={self.sizes}, {len(self.mean)} means and {len(self.std)} standard deviations (0 or "
            "more), where there is one of each per channel; leave them out and fit the modality",
        )
        require(
            self.dtype in DTYPES, f"Arrays got dtype={self.dtype!r}, which is no type of numbers; give one of {DTYPES}"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(C,1,L) or (C,H,W), empty before fitting."""
        return self.sizes if len(self.sizes) == 3 else (self.sizes[0], 1, *self.sizes[1:]) if self.sizes else ()

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        return label_conditions(self.classes)

    def fit(self, raw: ArraySet) -> Arrays:
        """A new modality with the shape, scales, type and classes of ``raw``."""
        mean, std = channel_scales(raw.values)
        require(
            bool((std > 0).any()),
            f"all {len(raw)} arrays have one value in each channel ({mean[0]:g} in the first), so there is nothing to "
            "learn; check how the data were made",
        )
        classes, names = classes_of(raw.labels, raw.names, self.classes)
        sizes = tuple(int(n) for n in raw.values.shape[1:])
        return replace(
            self,
            sizes=sizes,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            dtype=raw.values.dtype.name,
            classes=classes,
            names=names,
        )

    def raw(self, values: Any, labels: Any = None) -> ArraySet:
        """Arrays from an array or a tensor, with the channels where the files have them, and their labels."""
        if isinstance(values, ArraySet):
            no_labels(labels, "ArraySet, which holds its own")
            return values
        array = as_array(values)
        require(array is not None, f"the arrays are {type(values).__name__}; give an array or a tensor [N,C,L]")
        assert array is not None
        array = np.moveaxis(array, -1, 1) if self.last else array
        return ArraySet(array) if labels is None else ArraySet(array, *coded(labels, len(array), self.names))

    def encode(self, raw: ArraySet, rng: Rng | None = None) -> Batch:
        """Standardised float32 [N,C,1,L] or [N,C,H,W] and labels; ``rng`` is not used."""
        require(
            raw.values.shape[1:] == self.sizes,
            f"the arrays have shape {raw.values.shape[1:]}, but the modality has {self.sizes or '()'}; "
            + ("give arrays of that shape" if self.sizes else "fit it first: modality.fit(raw)"),
        )
        mean, std = self._scales()
        x = np.empty(raw.values.shape, np.float32)
        for start in range(0, len(x), 1024):  # float64 in between, a part at a time
            part = slice(start, start + 1024)
            x[part] = (raw.values[part] - mean) / np.where(std > 0, std, 1)
        tensor = torch.from_numpy(x).reshape(-1, *self.shape)
        if not self.classes or raw.labels is None:  # generated arrays have no labels
            return Batch(tensor)
        labels = class_indices(raw.labels, len(raw), raw.names, self.classes, self.names)
        return Batch(tensor, cond={"label": torch.from_numpy(labels)})

    def decode(self, x: Tensor) -> ArraySet:
        """Arrays in the range and type of the data from standardised tensors."""
        require(
            x.shape[1:] == self.shape and bool(x.isfinite().all()),
            f"a tensor of shape {tuple(x.shape)} cannot be decoded to arrays of shape {self.shape or '()'}, or is not "
            "finite; give finite [N,*S] of that shape, and fit the modality first",
        )
        mean, std = self._scales()
        values = x.detach().cpu().double().numpy().reshape(-1, *self.sizes) * std + mean
        kind = np.dtype(self.dtype)
        if kind.kind in "iu":
            info = np.iinfo(kind)
            # the largest 64-bit number rounds up in float64
            top = float(info.max) if kind.itemsize < 8 else np.nextafter(float(info.max), 0)
            return ArraySet(np.rint(values).clip(float(info.min), top).astype(kind))
        limit = float(np.finfo(kind).max)
        return ArraySet(values.clip(-limit, limit).astype(kind))

    def condition(self, value: Any, n: int) -> Cond:
        """Labels [n] of {"label": 3}, 3, a class name, one of these per sample, or None (the null label)."""
        return label_condition(value, n, self.classes, self.names)

    def with_condition(self, raw: ArraySet, value: Any) -> ArraySet:
        labels = labels_of(value, len(raw), self.classes, self.names)
        return ArraySet(raw.values, labels, () if labels is None or numeric(self.names) else self.names)

    def preview(self, raw: ArraySet, most: int = 16) -> bytes:
        """A PNG: curves of the channels of signals, or a grid of images (of the first channel unless there are 3)."""
        if raw.values.ndim == 3:
            return _curves(raw.values[:most])
        return Image().preview(Images(_pixels(raw.values[: 4 * most])))

    def save(self, raw: ArraySet, path: Path) -> None:
        """Write an array (.npy), arrays with labels (.npz), a directory with one .npy per array, or the preview."""
        values = np.moveaxis(raw.values, 1, -1) if self.last else raw.values
        if path.suffix == "":
            for i, value in enumerate(values):
                with replacing(path / f"{i:05d}.npy") as file, open(file, "wb") as out:
                    np.save(out, value)
            return
        with replacing(path) as file, open(file, "wb") as out:
            if path.suffix == ".npy":
                np.save(out, values)
            elif path.suffix == ".npz":
                more: dict[str, Any] = dict(stored_labels(raw.labels, raw.names))
                np.savez(out, arrays=values, **more)
            else:
                out.write(self.preview(raw))

    def _scales(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the channels, in the shape of one array."""
        shape = (-1, *(1 for _ in self.sizes[1:]))
        return np.asarray(self.mean).reshape(shape), np.asarray(self.std).reshape(shape)


DTYPES = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) + (
    "float16",
    "float32",
    "float64",
)


def channel_scales(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation [C] of every channel in float64, a part of the data at a time."""
    axes = (0, *range(2, values.ndim))
    count = values.size // values.shape[1]
    shape = (1, -1, *(1 for _ in values.shape[2:]))
    parts = [slice(start, start + 1024) for start in range(0, len(values), 1024)]
    mean = sum(values[part].sum(axes, dtype=np.float64) for part in parts) / count
    assert isinstance(mean, np.ndarray)
    var = sum(np.square(values[part] - mean.reshape(shape)).sum(axes) for part in parts) / count
    std = np.sqrt(var)
    return mean, np.where(std > 1e-12 * np.abs(mean), std, 0.0)


def refuse_nonfinite(values: Array, first: int) -> None:
    """Refuse NaN and infinite values; ValueError names the array, counted from ``first``, and the position in it."""
    bad = ~np.isfinite(values)
    if bad.any():
        row, *at = (int(i) for i in np.argwhere(bad)[0])
        raise BeelineError(
            f"array {row + first} has the value {values[row][tuple(at)]} at {at}; arrays are finite: leave it out, or "
            "fill the gap"
        )


def _pixels(values: Array) -> Array:
    """Images of three channels, or of the first one, scaled from their range to 0 .. 255."""
    shown = values if values.shape[1] == 3 else values[:, :1]
    shown = np.moveaxis(shown.astype(np.float64), 1, -1)
    low, high = np.quantile(shown, (0.005, 0.995))  # single bright points would darken the rest
    scaled = (shown - low) / (high - low) if high > low else np.zeros_like(shown)
    return np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)


def _curves(values: Array) -> bytes:
    from matplotlib.figure import Figure

    columns = min(4, len(values))
    lines = -(-len(values) // columns)
    figure = Figure(figsize=(2.2 * columns, 1.4 * lines), layout="constrained")
    for i, channels in enumerate(values):
        axes = figure.add_subplot(lines, columns, i + 1)
        for channel in channels[:8]:
            axes.plot(channel, linewidth=0.7)
        axes.tick_params(labelsize=6)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()
