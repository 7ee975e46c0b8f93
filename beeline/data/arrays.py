"""Arrays of .npy and .npz files, read without unpickling and without trusting what their headers claim."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from beeline.core.errors import BeelineError, require
from beeline.data.labels import Array

RATIO, FREE = 100, 2**30  # an archive larger than FREE bytes may be RATIO times the size of its file


def read_arrays(place: Path) -> dict[str, Array]:
    """The arrays of a .npz file by name, or the one of a .npy file under the name "array"."""
    try:
        with place.open("rb") as file:
            archive = file.read(2) == b"PK"
        require(
            archive == (place.suffix == ".npz"),
            f"{place} is named {place.suffix}, but holds {'several arrays' if archive else 'no archive of arrays'}; "
            f"rename it to {'.npz' if archive else '.npy'} if it was written by numpy, or write it again",
        )
        if not archive:
            # a map compares the header with the length of the file before anything is allocated
            return {"array": np.array(np.load(place, mmap_mode="r", allow_pickle=False))}
        with zipfile.ZipFile(place) as members:
            infos = members.infolist()
            size = sum(info.file_size for info in infos)
            for info in infos:
                if info.file_size < FREE:
                    _check_header(place, members, info)
        require(
            size <= max(FREE, RATIO * place.stat().st_size),
            f"{place} would become {size:,} bytes, {size // max(place.stat().st_size, 1):,} times its size; that is no "
            "usual data: write it again with numpy.save, one array a file",
        )
        with np.load(place, allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except BeelineError:
        raise
    # a damaged header or archive makes numpy and zipfile raise nearly anything (also SyntaxError and MemoryError)
    except Exception as error:
        raise BeelineError(
            f"{place} cannot be read as {place.suffix} ({error}); it is damaged, encrypted, or holds Python objects, "
            "which are never unpickled: write it again with numpy.save or numpy.savez"
        ) from error


def _check_header(place: Path, members: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Refuse a member whose header claims more than the member holds, before numpy allocates it."""
    with members.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    claimed = dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
    require(
        dtype.hasobject or claimed <= info.file_size,
        f"{place}, {info.filename}, claims an array of shape {shape} in {info.file_size:,} bytes; it is damaged: "
        "write it again",
    )
