"""Incomplete data in the user's form as encoded values and a mask of those that are known."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.data.arrays import as_array, as_pictures, read_arrays
from beeline.data.images import Image, Images
from beeline.data.labels import Array, existing
from beeline.data.pictures.pixels import pixels_of
from beeline.data.points import Points, PointSet
from beeline.data.sequences import Sequences
from beeline.data.signals.arrays import Arrays, ArraySet


@dataclass(frozen=True)
class Observed:
    """Encoded data, complete or not."""

    values: Tensor  # [N,*M]; M is the shape of a datum, or that of a smaller, grey or shorter one
    known: Tensor  # booleans [N,*M]


@singledispatch
def observed(modality: Any, given: Any) -> Observed:
    """Data as they were observed: a path, or data in memory.

    Pixels are known where they are not transparent, numbers where they are not NaN or an empty cell.  Raises
    BeelineError for data that cannot be read, and for a modality without a form for incomplete data; register another
    one by ``observed.register(Modality)``.
    """
    raise BeelineError(
        f"{type(modality).__name__} has no form for incomplete data, so that no inverse problem can be read; steer by "
        "an energy of the encoded data: sampler=Sampler(controllers=(EnergyGuidance(Measured(...)),))"
    )


def is_path(given: Any) -> bool:
    """Whether data are given by a path."""
    return isinstance(given, str | Path)


@observed.register(Image)
def of_images(modality: Image, given: Any) -> Observed:
    """Images of any size, with one channel or with three."""
    opaque: Array | None = None
    if is_path(given):
        pixels, opaque = read_picture(existing(str(given)))
    elif isinstance(given, Images):
        pixels = given.pixels
    else:
        array = as_array(given)
        require(array is not None, f"the images are {type(given).__name__}; give an array [N,H,W,C] or a path")
        assert array is not None
        pixels = as_pictures(array)
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    require(
        pixels.dtype == np.uint8 and pixels.ndim == 4,
        f"the images are {pixels.dtype} of shape {pixels.shape}; give pixels of 8 bits, [N,H,W] or [N,H,W,C]",
    )
    level = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)) * ((modality.levels - 1) / 255)
    values = (level + 0.5) * (2 / modality.levels) - 1
    if modality.shape[0] == 1 and values.shape[1] == 3:
        values = (values * values.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    known = torch.ones_like(values, dtype=torch.bool)
    if opaque is not None:
        known &= torch.from_numpy(opaque)
    return Observed(values, known)


def read_picture(place: Path) -> tuple[Array, Array | None]:
    """Pixels uint8 [N,H,W,C] of a picture or an array file, and booleans [H,W] of the opaque ones, if any is not."""
    from PIL import Image as Picture

    require(not place.is_dir(), f"{place} is a directory; give one picture, or an array file of several")
    if place.suffix in (".npy", ".npz"):
        found = read_arrays(place)
        array = next((a for a in found.values() if a.ndim in (3, 4) or (a.ndim == 2 and a.dtype == np.uint8)), None)
        require(array is not None, f"{place} has no array of pictures; give pixels of 8 bits [N,H,W] or [N,H,W,C]")
        assert array is not None
        return as_pictures(array[None] if array.ndim == 2 else array), None
    content = place.read_bytes()
    pixels = pixels_of(str(place), content)
    with Picture.open(io.BytesIO(content)) as picture:
        if not picture.has_transparency_data:
            return pixels[None], None
        opaque = np.asarray(picture.convert("RGBA"))[..., 3] >= 128
    return pixels[None], opaque


@observed.register(Arrays)
def of_arrays(modality: Arrays, given: Any) -> Observed:
    """Signals or images of numbers, with NaN where one is missing; signals may be shorter."""
    if is_path(given):
        place = existing(str(given))
        require(place.suffix in (".npy", ".npz"), f"{place} is no file of arrays; give a .npy or .npz file")
        found = [a for a in read_arrays(place).values() if a.ndim in (len(modality.sizes), len(modality.sizes) + 1)]
        require(found, f"{place} has no array of the shape of the data, {modality.sizes}; check the file")
        array: Array | None = found[0]
    else:
        array = given.values if isinstance(given, ArraySet) else as_array(given)
    require(array is not None, f"the arrays are {type(given).__name__}; give an array or a tensor [N,C,L]")
    assert array is not None
    array = array[None] if array.ndim == len(modality.sizes) else array
    array = np.moveaxis(array, -1, 1) if modality.last and not isinstance(given, ArraySet) else array
    require(
        array.ndim == len(modality.sizes) + 1 and array.shape[1] == modality.sizes[0] and array.dtype.kind in "iuf",
        f"the arrays are {array.dtype} of shape {array.shape[1:]}, but the model has {modality.sizes}; give numbers "
        f"with {modality.sizes[0]} channels",
    )
    shape = (-1, *(1 for _ in modality.sizes[1:]))
    std = np.asarray(modality.std).reshape(shape)
    numbers = (array - np.asarray(modality.mean).reshape(shape)) / np.where(std > 0, std, 1)
    values = torch.from_numpy(numbers.astype(np.float32))
    return _known(values if values.ndim == 4 else values[:, :, None])


@observed.register(Points)
def of_points(modality: Points, given: Any) -> Observed:
    """Rows with empty cells or NaN where a number is missing."""
    if is_path(given):
        array = read_rows(existing(str(given)), modality.columns)
    else:
        found = given.values if isinstance(given, PointSet) else as_array(given)
        require(found is not None, f"the points are {type(given).__name__}; give an array [N,D] or a path")
        assert found is not None
        array = found[None] if found.ndim == 1 else found
    require(
        array.ndim == 2 and array.shape[1] == len(modality.columns) and array.dtype.kind in "iuf",
        f"the points are {array.dtype} of shape {array.shape}, but the model has the columns "
        f"{', '.join(modality.columns)}; give one number or NaN for each",
    )
    return _known(torch.from_numpy(((array - np.asarray(modality.mean)) / np.asarray(modality.std)).astype(np.float32)))


def read_rows(place: Path, columns: Sequence[str]) -> Array:
    """The columns [N,D] of a .csv or .npy file, with NaN in empty cells; ValueError names the line and the column."""
    if place.suffix in (".npy", ".npz"):
        found = next(iter(read_arrays(place).values()))
        return found[None] if found.ndim == 1 else found
    lines = [line for line in csv.reader(io.StringIO(text_of(place), newline="")) if line]
    header = [name.strip() for name in lines[0]] if lines else []
    lacking = [name for name in columns if name not in header]
    require(
        not lacking and len(lines) > 1,
        f"{place} has the columns {', '.join(header) or 'none'} and {max(0, len(lines) - 1)} rows, but the model has "
        f"{', '.join(columns)}; give a header with these names and at least one row, with empty cells where a number "
        "is missing",
    )
    places, rows = [header.index(name) for name in columns], []
    for number, line in enumerate(lines[1:], 2):
        cells = [line[i].strip() if i < len(line) else "" for i in places]
        try:
            rows.append([float(cell) if cell else np.nan for cell in cells])
        except ValueError:
            raise BeelineError(
                f"{place}, line {number}: {line} has a cell that is no number; leave unknown cells empty"
            ) from None
    return np.asarray(rows)


def text_of(place: Path) -> str:
    """The text of a file in UTF-8; ValueError for one of another kind."""
    require(not place.is_dir(), f"{place} is a directory; give one file of text")
    try:
        return place.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BeelineError(
            f"{place} is no text in UTF-8 (byte {error.start}), which this model reads; give a text file, or save it "
            "in this encoding"
        ) from None


@observed.register(Sequences)
def of_sequences(modality: Sequences, given: Any) -> Observed:
    """Texts, one-hot, with symbols outside the alphabet where one is missing; the ends of shorter ones are missing."""
    texts = text_of(existing(str(given))).rstrip().splitlines() if is_path(given) else given
    require(
        len(texts) > 0 and all(isinstance(text, str) and 0 < len(text) <= modality.length for text in texts),
        f"the sequences have the lengths {sorted({len(text) for text in texts})}; give at least one sequence of 1 to "
        f"{modality.length} symbols",
    )
    rank = {symbol: k for k, symbol in enumerate(modality.alphabet)}
    index = torch.tensor([[rank.get(symbol, -1) for symbol in text.ljust(modality.length, "\0")] for text in texts])
    values = torch.nn.functional.one_hot(index.clamp(min=0), len(rank)).float()
    return Observed(values, (index >= 0)[..., None].expand_as(values))


def _known(values: Tensor) -> Observed:
    return Observed(values, values.isfinite())
