"""Arrays of .npy and .npz files, read without unpickling; their headers are checked against their sizes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beeline.core.errors import BeelineError, require
from beeline.data.labels import Array

SINGLE = "array"  # the name of the array of a .npy file
RATIO, FREE = 100, 2**30  # an archive larger than FREE bytes may be RATIO times the size of its file


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
