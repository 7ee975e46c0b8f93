"""Arrays of .npy and .npz files, read without unpickling, and arrays and data frames in memory.

The headers of files are checked against their sizes before anything is allocated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from beeline.core.errors import BeelineError, extra, nearest, require
from beeline.data.labels import Array

SINGLE = "array"  # the name of the array of a .npy file
RATIO, FREE = 100, 2**30  # an archive larger than FREE bytes may be RATIO times the size of its file
LEVELS = 255  # of the values of an 8-bit picture above 0
TOLERANCE = 1e-3  # of a level, within which a float is one: conversions to float32 and back round that little


class Header(NamedTuple):
    """What the header of an array file declares."""

    shape: tuple[int, ...]
    dtype: Any


def read_arrays(place: Path) -> dict[str, Array]:
    """The arrays of a .npz file by name, or that of a .npy file by the name SINGLE."""
    with _readable(place) as archive:
        if not archive:
            # a memory map compares the header with the file size before anything is allocated
            return {SINGLE: np.array(np.load(place, mmap_mode="r", allow_pickle=False))}
        with zipfile.ZipFile(place) as members:
            infos = members.infolist()
            size = sum(info.file_size for info in infos)
            for info in infos:
                if info.file_size < FREE:
                    _check_header(place, members, info)
        require(
            size <= max(FREE, RATIO * place.stat().st_size),
            f"{place} expands to {size:,} bytes, {size // max(place.stat().st_size, 1):,} times its size, which is "
            "refused as a decompression bomb; write it again with numpy.save, one array per file",
        )
        with np.load(place, allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}


def array_headers(place: Path) -> dict[str, Header]:
    """Shape and dtype of the arrays that ``read_arrays`` reads, from their headers alone."""
    with _readable(place) as archive:
        if not archive:
            array = np.load(place, mmap_mode="r", allow_pickle=False)
            return {SINGLE: Header(array.shape, array.dtype)}
        with zipfile.ZipFile(place) as members:
            return {info.filename.removesuffix(".npy"): _header(members, info) for info in members.infolist()}


@contextmanager
def _readable(place: Path) -> Iterator[bool]:
    """Whether a file is an archive of arrays; every error while it is read becomes one that names it."""
    try:
        with place.open("rb") as file:
            archive = file.read(2) == b"PK"
        require(
            archive == (place.suffix == ".npz"),
            f"{place} has the extension {place.suffix}, but is {'an archive' if archive else 'no archive'} of arrays; "
            f"rename it to {'.npz' if archive else '.npy'} if it was written by numpy, or write it again",
        )
        yield archive
    except BeelineError:
        raise
    # numpy and zipfile raise errors of many types on damaged files, also SyntaxError and MemoryError
    except Exception as error:
        raise BeelineError(
            f"{place} cannot be read as {place.suffix} ({error}), so it is damaged, encrypted, or holds "
            "pickled objects, which are never loaded; write it again with numpy.save or numpy.savez"
        ) from error


def _check_header(place: Path, members: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Refuse a member whose header declares more bytes than it has, before numpy allocates them."""
    shape, dtype = _header(members, info)
    claimed = dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
    require(
        dtype.hasobject or claimed <= info.file_size,
        f"{place}, {info.filename}, declares an array of shape {shape} in {info.file_size:,} bytes, so it is damaged; "
        "write it again",
    )


def _header(members: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    with members.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return Header(shape, dtype)


@runtime_checkable
class ArrowStream(Protocol):
    """A data frame that gives its columns in the Arrow format, such as those of polars, pyarrow and duckdb."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


@runtime_checkable
class ArrayLike(Protocol):
    """Anything that numpy converts to an array."""

    def __array__(self) -> Any: ...


def as_frame(values: Any) -> Any:
    """A data frame of pandas from one of pandas, polars or Arrow; None for other objects."""
    kind = type(values)
    if kind.__module__.partition(".")[0] in ("pandas",):
        return values if kind.__name__ in ("DataFrame",) else None
    if not isinstance(values, ArrowStream):
        return None
    table = extra("pyarrow", "tables").table(values)
    return table.to_pandas()


def as_array(values: Any) -> Array | None:
    """An array from a tensor on any device, an array or a series; None for other objects."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.is_floating_point() and values.itemsize < 4 else values)
    return np.asarray(values) if isinstance(values, ArrayLike) else None


def as_pictures(array: Array) -> Array:
    """Pictures as uint8 [N,H,W] or [N,H,W,C]; other arrays as they are.

    Pictures are uint8 [N,H,W], [N,H,W,C] or [N,C,H,W] with 1 or 3 channels, and floats [N,C,H,W] or [N,H,W,C] whose
    values are the 256 levels of 8-bit pictures in [0, 1] or [-1, 1], as ``ToTensor`` and ``Normalize`` of torchvision
    give them: nothing is lost by the conversion.
    """
    channels_first = array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3)
    channels_last = array.ndim == 4 and array.shape[3] in (1, 3)
    if array.dtype.kind in "f" and (channels_first or channels_last) and array.size:
        low, high = float(array.min()), float(array.max())
        if low < -1 or high > 1:
            return array
        levels = array * LEVELS if low >= 0 else (array + 1) * (LEVELS / 2)
        whole = np.rint(levels)
        if not np.abs(levels - whole).max() <= TOLERANCE:
            return array
        array = whole.astype(np.uint8)
    if array.dtype != np.uint8:
        return array
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if channels_first else array


def with_labels(frame: Any, labels: Any) -> Any:
    """A data frame of pandas with labels as a column: under the name of their series, or ``label``."""
    series = type(labels).__name__ in ("Series",) and labels.name is not None
    name = str(labels.name) if series else "label"
    require(
        name not in frame.columns,
        f"labels were given beside a data frame that has a column {name!r} already; leave them out, or rename one",
    )
    require(
        len(labels) == len(frame),
        f"{len(labels)} labels were given beside {len(frame)} rows; give one for each row",
    )
    cells = as_array(labels)
    return frame.assign(**{name: list(labels) if cells is None else cells})


def as_labels(labels: Any, rows: int) -> Array:
    """Labels [rows] of whole numbers or text, from a tensor, an array, a series or a list."""
    given = as_array(labels)
    given = np.asarray(labels) if given is None else given
    if given.dtype.kind in "OT":  # text of pandas and of numpy's own type
        others = {type(label).__name__ for label in given.tolist() if not isinstance(label, str)}
        require(
            not others,
            f"the labels hold {', '.join(sorted(others))}; a label is text or a whole number: convert or fill them",
        )
        given = given.astype(str)
    require(
        given.shape == (rows,) and given.dtype.kind in "iuUb",
        f"the labels are {given.dtype} of shape {given.shape} beside {rows} data; give one whole number or text for "
        "each, such as the codes of pandas.factorize",
    )
    return given.astype(np.int64) if given.dtype.kind in "b" else given


def coded(labels: Any, rows: int, names: tuple[str, ...]) -> tuple[Array, tuple[str, ...]]:
    """(labels as integers, names of the classes) for a model with classes of these names."""
    given = as_labels(labels, rows)
    if given.dtype.kind not in "U":
        return given, ()
    order = {name: k for k, name in enumerate(names)}
    for label in sorted(set(given.tolist()) - set(order)):
        raise BeelineError(f"{label!r} is a label that the model does not have; {nearest(label, order)}")
    return np.array([order[label] for label in given.tolist()], dtype=np.int64), names


def no_labels(labels: Any, kind: str) -> None:
    """Refuse labels beside data that have none."""
    require(labels is None, f"labels were given beside data of {kind}, which have none; leave them out")
