"""Images decoded once, by several processes, into one memory-mapped array of 8-bit pixels in a cache folder."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from beeline.core.errors import BeelineError, require
from beeline.core.files import flush_folder, read_json, unwritten, write_json
from beeline.data.labels import Array
from beeline.data.pictures.listing import Listing
from beeline.data.pictures.pixels import pixels_of
from beeline.training.feed.cache import waiting_lock
from beeline.training.feed.workers import initialize_worker

CACHED = 256  # images from which on they are decoded to a file
CHUNK = 128  # images of one task
FEW = 300  # images whose headers are read to see whether the set is grayscale
PIXELS, META = "pixels.npy", "meta.json"
VERSION = 1  # of the decoder; another one decodes again
R = TypeVar("R")


class Decoded(NamedTuple):
    """Decoded images and the hash of their pixels."""

    pixels: Array  # uint8 [N,H,W,C], a read-only memory map if there are many
    digest: str


class OneSize(NamedTuple):
    """The height and width that all images have to have, and an image that has them."""

    height: int
    width: int
    first: str


@dataclass(frozen=True)
class Decoder:
    """Decodes image files to one size: bytes -> uint8 [H,W,C].

    ``fit`` crops and scales the decoded pixels; None takes images as they are, which then have one size.
    """

    background: str = "white"
    fit: Callable[[Array], Array] | None = None

    def __call__(self, where: str, content: Any) -> Array:
        tile = pixels_of(where, content, self.background)
        return tile if self.fit is None else self.fit(tile)

    def read(self, path: str) -> Array:
        """The pixels of an image file."""
        with open(path, "rb") as file:
            return self(path, file.read())


def cache_folder() -> Path:
    """The folder for decoded images where none is given."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "beeline" / "images"


def in_memory(sources: Iterable[tuple[str, Any]], decoder: Decoder) -> Array:
    """The pixels [N,H,W,C] of encoded images of one size, (where, bytes); grayscale ones are RGB beside others."""
    tiles: list[Array] = []
    size: OneSize | None = None
    for where, content in sources:
        tile = decoder(where, content)
        size = size or OneSize(tile.shape[0], tile.shape[1], where)
        check_size(tile, where, size)
        tiles.append(tile)
    if any(tile.shape[2] == 3 for tile in tiles):
        tiles = [tile if tile.shape[2] == 3 else tile.repeat(3, 2) for tile in tiles]
    return np.stack(tiles)


def decoded(files: Listing, decoder: Decoder, settings: Any, cache: str | None = None) -> Decoded:
    """The pixels of image files in the order of ``files``, from the cache where they are there already.

    Fewer than ``CACHED`` images are decoded in memory.  An entry of the cache is replaced when names, sizes or times of
    the files have changed.  ``settings`` are plain data that identify the decoder.  ``cache`` is its folder, by default
    that of the user; if that one cannot be written, the pixels are in a temporary file, which no later run uses.

    Raises BeelineError, which names the file, for an image that cannot be decoded, or for a full disk.
    """
    if len(files) < CACHED:
        pixels = in_memory(((p, Path(p).read_bytes()) for p in map(files.path, range(len(files)))), decoder)
        return Decoded(pixels, "")
    folder = cache_folder() if cache is None else Path(cache).expanduser()
    key = json.dumps([VERSION, str(files.root.resolve()), settings], sort_keys=True)
    entry = folder / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = tempfile.TemporaryFile(dir=folder)
        probe.close()
    except OSError as error:
        if cache is not None:
            raise unwritten(folder, error) from error
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as other:
            return _build(Path(other) / "entry", files, decoder)  # the mapped file lives on after its folder
    with waiting_lock(folder / f"{entry.name}.lock"):
        for left in folder.glob(f".writing-{entry.name}-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        found = _entry(entry, files)
        return _build(entry, files, decoder) if found is None else found


def _entry(entry: Path, files: Listing) -> Decoded | None:
    """The entry of the cache, if it is whole and of these files."""
    try:
        meta = read_json(entry / META)
        pixels = np.load(entry / PIXELS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    whole = isinstance(meta, dict) and meta.get("files") == files.digest() and list(pixels.shape) == meta.get("shape")
    return Decoded(pixels, str(meta["digest"])) if whole and len(pixels) == len(files) else None


def _build(entry: Path, files: Listing, decoder: Decoder) -> Decoded:
    """Decode all files into a new entry, which takes the place of an older one."""
    staged = entry.with_name(f".writing-{entry.name}-{uuid.uuid4().hex[:8]}")
    first = decoder.read(files.path(0))
    size = OneSize(first.shape[0], first.shape[1], files.path(0))
    channels = 3 if first.shape[2] == 3 or _colour(files) else 1
    try:
        staged.mkdir(parents=True)
        found = _decode(staged, files, decoder, size, channels)
        if found is None:  # a colour image among those taken for grayscale, or the other way round
            found = _decode(staged, files, decoder, size, 4 - channels)
        assert found is not None
        meta = {"shape": list(found.pixels.shape), "digest": found.digest, "files": files.digest()}
        write_json(staged / META, {**meta, "folder": str(files.root)})
        if entry.exists():
            os.rename(entry, staged / "old")
        os.rename(staged, entry)
        flush_folder(entry.parent)
        shutil.rmtree(entry / "old", ignore_errors=True)
        return found
    except OSError as error:
        raise unwritten(entry, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _colour(files: Listing) -> bool:
    """Whether one of some images has colours, from their headers."""
    from PIL import Image

    for i in range(0, len(files), max(1, len(files) // FEW)):
        try:
            with Image.open(files.path(i)) as opened:
                if opened.mode not in ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"):
                    return True
        except OSError:
            continue  # decoding it raises an error with its name
    return False


def _decode(staged: Path, files: Listing, decoder: Decoder, size: OneSize, channels: int) -> Decoded | None:
    """Decode with a number of channels; None if the images have another one."""
    path = staged / PIXELS
    shape = (len(files), size.height, size.width, channels)
    space(staged, int(np.prod(shape)), len(files))
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    start = int(array.offset)  # type: ignore[attr-defined]
    del array
    with open(path, "rb+") as file:
        if sys.platform.startswith("linux"):
            os.posix_fallocate(file.fileno(), 0, start + int(np.prod(shape)))  # fails now, not in the middle
    task = Task(str(path), start, decoder, size, channels)
    hashes, coloured = [], False
    for digest, colours in by_chunks(task, files, "decoding images"):
        hashes.append(digest)
        coloured = coloured or colours
        if coloured and channels == 1:
            return None
    if not coloured and channels == 3:
        return None
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    total = hashlib.sha256("".join([*hashes, str(shape)]).encode()).hexdigest()[:32]
    return Decoded(np.load(path, mmap_mode="r", allow_pickle=False), total)


@dataclass(frozen=True)
class Task:
    """What a process has to know to decode a part of the images into the file."""

    path: str
    start: int  # of the pixels in the file
    decoder: Decoder
    size: OneSize
    channels: int

    def __call__(self, chunk: tuple[int, Sequence[str]]) -> tuple[str, bool]:
        """Decode and write images from a row on; (hash of their pixels, whether one has colours)."""
        row, paths = chunk
        block = np.empty((len(paths), self.size.height, self.size.width, self.channels), np.uint8)
        colours = False
        for i, path in enumerate(paths):
            tile = self.decoder.read(path)
            check_size(tile, path, self.size)
            colours = colours or tile.shape[2] == 3
            block[i] = tile[..., : self.channels]  # a grayscale image fills all channels
        with open(self.path, "rb+") as file:
            file.seek(self.start + row * block[0].size)
            file.write(block.data)
        return hashlib.sha256(block.data).hexdigest(), colours


def check_size(tile: Array, where: str, size: OneSize) -> None:
    """Refuse an image of another size than the first one."""
    least = min(size.height, size.width, *tile.shape[:2])
    require(
        tile.shape[:2] == (size.height, size.width),
        f"{size.first} is {size.height}x{size.width} and {where} is {tile.shape[0]}x{tile.shape[1]}, but a model has "
        f"one size; give resize=, for example resize={least}, or the data set ImageBuckets",
    )


def space(folder: Path, size: int, count: int) -> None:
    """Refuse to decode where the disk has too little space for the pixels."""
    free = shutil.disk_usage(folder).free
    require(
        size <= free,
        f"{count:,} decoded images take {size / 2**20:,.0f} MiB in {folder.parent}, where {free / 2**20:,.0f} MiB are "
        "free; free some space, give another folder by data.cache=DIR, or a smaller data.resize",
    )


def by_chunks(task: Callable[[tuple[int, Sequence[str]]], R], files: Listing, title: str) -> Iterator[R]:
    """The results of ``task`` for (first index, paths) of all chunks, computed by processes, in their order.

    A progress bar is shown on a terminal.  Raises BeelineError if a process dies.
    """
    from rich.console import Console
    from rich.progress import track

    starts = range(0, len(files), CHUNK)
    chunks = ((at, [files.path(i) for i in range(at, min(at + CHUNK, len(files)))]) for at in starts)
    cores = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    workers = min(cores, 16, len(starts))
    with _pool(workers) as pool:
        console = Console(stderr=True)
        waiting: list[Any] = []
        try:
            for chunk in track(chunks, title, len(starts), console=console, disable=not console.is_terminal):
                waiting.append(pool.submit(task, chunk))
                if len(waiting) >= 4 * workers:  # the paths of all images would take memory
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()
        except BrokenProcessPool as error:
            raise BeelineError(
                "a process that decodes images died; it was killed or ran out of memory: free memory, or set fewer "
                "pixels by data.resize"
            ) from error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that end at once after an error or Ctrl-C."""
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    pool = ProcessPoolExecutor(workers, context, initialize_worker)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
