"""Recipe selection by the kind of a data file, a folder, or a data set of the hub.

``KINDS`` are tried in turn; the first one that knows what lies at the path gives the recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, extra, require
from beeline.data.arrays import SINGLE, array_headers
from beeline.data.described.columns import has_captions
from beeline.data.hub.features import columns_of, refuse_unknown, stored_features
from beeline.data.hub.given import is_given
from beeline.data.hub.hub_arrays import HubArrays
from beeline.data.hub.hub_images import HubImages, pictured
from beeline.data.hub.hub_stream import HubStream
from beeline.data.hub.opening import features_of, is_name, is_saved
from beeline.data.image_files import ImageFile
from beeline.data.labels import existing
from beeline.data.latents.shards import MANIFEST
from beeline.data.pictures.listing import Listing, is_image, listing
from beeline.data.point_files import CLASS_NAMES, LABEL_ARRAYS, PointFile
from beeline.data.records.record_images import SIZES_READ, RecordImages, sizes_in, sizes_of
from beeline.data.records.tar_index import is_shards, shard_files
from beeline.data.records.tar_shards import TarShards
from beeline.data.tables.reading import PARQUET, TEXTS
from beeline.objectives.matching import Drop, FlowMatching
from beeline.recipes.images import FROM_TEXT, captions, images, latents
from beeline.recipes.points import points
from beeline.recipes.sequences import sequences
from beeline.recipes.signals import arrays, attends
from beeline.recipes.tables import table
from beeline.runs.run import Run

TABLES = (*TEXTS, *(f"{ending}.gz" for ending in TEXTS), *PARQUET)
ARRAYS = (".npy", ".npz")
AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac", ".opus", ".aiff")
SIDE = 64  # pixels per side to which images of several sizes, or larger ones, are scaled


@dataclass(frozen=True)
class Place:
    """What a user named, and the side to which images are scaled."""

    name: str
    side: int

    @cached_property
    def path(self) -> Path:
        return Path(self.name).expanduser()

    @cached_property
    def listing(self) -> Listing | None:
        """The files of a folder; None for a file."""
        return listing(self.path) if self.path.is_dir() else None

    @cached_property
    def files(self) -> list[Path]:
        """The files in a folder that are no images, or the file itself; hidden ones are left out."""
        if self.listing is None:
            return [self.path] if self.path.is_file() else []
        return [self.path / name for name in self.listing.skipped]

    def ending_with(self, endings: Sequence[str]) -> list[Path]:
        """The files with one of some endings."""
        return [file for file in self.files if file.name.lower().endswith(tuple(endings))]


def recipe_for(path: str, side: int = SIDE) -> Run:
    """The recipe for a data file, a folder, or a data set of the Hugging Face hub.

    CSV, TSV and Parquet files, and folders of them, are tables.  A Parquet file with encoded images, a folder of
    images, tar shards of images, and uint8 arrays [N,H,W] or [N,H,W,C] are images.  Other arrays [N] and [N,D] are
    points, and [N,C,L] and [N,C,H,W] signals and images in any range.  A text file contains sequences.  A data set of
    the Hugging Face library, saved with ``save_to_disk`` or hf:owner/name of the hub, is one of these by its features.
    A folder written by ``beeline encode`` holds latents.  Images of several sizes, or larger than ``side`` pixels, are
    cropped to their central square and scaled.

    Raises BeelineError for a path that is missing, empty or of an unknown kind.
    """
    place = Place(path, side)
    if not is_name(path) and not is_shards(path) and not is_given(path):
        existing(path)
    found = next((run for kind in KINDS if (run := kind(place)) is not None), None)
    if found is not None:
        return found
    raise refused(place)


def stream(place: Place) -> Run | None:
    """A stream of images that was given in Python."""
    if not is_given(place.name):
        return None
    data = HubStream(place.name)
    side = common_side(sizes_of(data.some()), place.side)
    return replace(images(place.name), data=replace(data, resize=side))


def hub(place: Place) -> Run | None:
    """A data set of the Hugging Face library, saved in a folder or by the name of the hub."""
    if not is_name(place.name) and not is_saved(place.path):
        return None
    features = features_of(place.name)
    columns = columns_of(features)
    refuse_unknown(columns, place.name)
    if columns.images or any(pictured(features[name]) for name in columns.arrays):
        return scaled(place, HubImages(place.name))
    if columns.arrays:
        return signals(place.name, HubArrays(place.name), features[columns.arrays[0]].shape)
    return table(place.name)


def shards(place: Place) -> Run | None:
    """Tar shards: a folder, a pattern, or one file."""
    if not is_shards(place.name):
        return None
    require(
        shard_files(place.name) and all(file.is_file() for file in shard_files(place.name)),
        f"{place.name} names no file; give a folder of .tar files, or a pattern such as data-{{000..099}}.tar",
    )
    return scaled(place, TarShards(place.name))


def pictures(place: Place) -> Run | None:
    """A folder of images, with captions or without."""
    require(
        not place.path.is_file() or not is_image(place.path.name),
        f"{place.name} is a single picture; a model learns from many: give a folder of pictures",
    )
    if place.listing is None or not len(place.listing):
        return None
    run = captions(place.name) if has_captions(place.listing) else images(place.name)
    side = common_side(_file_sizes(place.listing), place.side)
    return replace(run, data=replace(run.data, resize=side))  # type: ignore[type-var]


def encoded(place: Place) -> Run | None:
    """A folder of latents."""
    if not (place.path / MANIFEST).is_file():
        return None
    run = latents(place.name)
    modality: Any = run.data.modality()
    return run if modality.image.described is None else replace(run, network=FROM_TEXT)


def parquet(place: Place) -> Run | None:
    """Parquet files with images or arrays, by the features in their metadata or by the form of their columns."""
    found = place.ending_with(PARQUET)
    if not found:
        return None
    schema = _schema(found[0])
    features = stored_features(schema)
    columns = columns_of(features)
    if features:
        refuse_unknown(columns, str(found[0]))
    encoded = [f.name for f in schema if str(f.type).startswith("struct<bytes: binary")]
    if columns.images or encoded:
        image = (columns.images or tuple(encoded))[0]
        label = columns.label()
        label = label if label in columns.classes else None  # ImageFile knows the usual names
        sizes = sizes_in(_first_rows(found[0], image))
        data = ImageFile(place.name, resize=common_side(sizes, place.side), image=image, label=label)
        return replace(images(place.name), data=data)
    if columns.arrays:
        return signals(place.name, HubArrays(place.name), features[columns.arrays[0]]["shape"])
    return None


def tables(place: Place) -> Run | None:
    """A table, in one file or in parts."""
    return table(place.name) if place.ending_with(TABLES) else None


def array(place: Place) -> Run | None:
    """An array file, by the headers of its arrays."""
    if not place.path.is_file() or not place.name.lower().endswith(ARRAYS):
        return None
    headers = array_headers(place.path)
    single = headers.get(SINGLE)
    named = [headers[name] for name in ("x_train", "images") if name in headers]
    shown = [h for h in (single, *named) if h is not None and _pictures(h)]
    if shown or "x_train" in headers:
        large = bool(shown) and max(shown[0].shape[1:3], default=0) > place.side
        return replace(images(place.name), data=ImageFile(place.name, resize=place.side if large else None))
    data = [header for name, header in headers.items() if name not in (*LABEL_ARRAYS, CLASS_NAMES)]
    if len(data) == 1 and len(data[0].shape) in (3, 4):
        return signals(place.name, None, data[0].shape[1:])
    require(
        len(data) != 1 or len(data[0].shape) <= 4,
        f"{place.name} holds an array of shape {data[0].shape if data else ()}; known are points [N] or [N,D], signals "
        "[N,C,L] and images [N,C,H,W]: reshape it",
    )
    label = next((name for name in LABEL_ARRAYS if name in headers), None)
    if label is None:
        return points(place.name)
    return replace(points(place.name), data=PointFile(place.name, label=label), objective=FlowMatching(drop=Drop(0.1)))


def text(place: Place) -> Run | None:
    """A text file of sequences, one per line."""
    return sequences(place.name) if place.path.is_file() and place.name.lower().endswith(".txt") else None


KINDS: tuple[Callable[[Place], Run | None], ...] = (
    stream,
    hub,
    encoded,
    shards,
    pictures,
    parquet,
    tables,
    array,
    text,
)
"""What a path may be, in the order in which it is tried."""


def signals(path: str, data: Any, sizes: Sequence[int]) -> Run:
    """The recipe of arrays; attention is left out where it would be costly."""
    run = arrays(path)
    space = sizes[1:] if len(sizes) == 3 else (1, *sizes[1:])
    network = run.network if attends(space) else {**run.network, "attention": False}
    return replace(run, network=network, data=run.data if data is None else data)


def scaled(place: Place, data: RecordImages) -> Run:
    """The recipe of images that are read one by one, scaled to a common side."""
    side = common_side(sizes_of(data.records()[0]), place.side)
    return replace(images(place.name), data=replace(data, resize=side))


def refused(place: Place) -> BeelineError:
    """The refusal of a path of which no kind knows anything, with what was found there."""
    known = (
        f"a table ({', '.join(TABLES)}), an array ({', '.join(ARRAYS)}), a text file of sequences (.txt), a folder of "
        "pictures or of parts of a table, tar shards, or a Hugging Face data set"
    )
    if place.path.is_file():
        ending = place.path.suffix.lower()
        if ending in AUDIO:
            return BeelineError(f"{place.name} is a recording, and no recipe reads audio; {_FROM_AUDIO}")
        return BeelineError(f"{place.name} has the ending {ending!r}, which no recipe reads; give {known}")
    counts = Counter(file.suffix.lower() or file.name for file in place.files)
    kinds = ", ".join(f"{n} {ending}" for ending, n in counts.most_common(6))
    found = f"{len(place.files)} files ({kinds})" if place.files else "no files"
    if any(ending in AUDIO for ending in counts):
        return BeelineError(f"{place.name} holds {found}, and no recipe reads audio; {_FROM_AUDIO}")
    if any(ending in ARRAYS for ending in counts):
        return BeelineError(
            f"{place.name} holds {found}, and arrays are read from one file; stack them with numpy.stack, save the "
            "result with numpy.save, and give that file"
        )
    return BeelineError(f"{place.name} holds {found} and nothing that a recipe reads; give {known}")


_FROM_AUDIO = (
    "cut the recordings into pieces of one length, stack them as an array [N,C,L] (C channels, L samples), save it "
    "with numpy.save, and give the .npy file"
)


def _pictures(header: Any) -> bool:
    """Whether an array is images of 8 bits: [N,H,W], or [N,H,W,C] with at most 4 channels."""
    shape = header.shape
    return header.dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] <= 4))


def common_side(sizes: set[tuple[int, int]], side: int) -> int | None:
    """The side to which all images are scaled, or None for images of one small size."""
    if len(sizes) == 1 and max(next(iter(sizes))) <= side:
        return None
    least = min((min(size) for size in sizes), default=side)
    return max(8, min(side, least) // 8 * 8)  # networks halve the sides up to three times


def _file_sizes(pictures: Listing) -> set[tuple[int, int]]:
    """(width, height) of some evenly spaced image files."""
    from PIL import Image

    sizes = set()
    for i in range(0, len(pictures), max(1, len(pictures) // SIZES_READ)):
        try:
            with Image.open(pictures.path(i)) as opened:
                sizes.add(opened.size)
        except OSError:
            continue  # reading the images raises an error with its name
    return sizes


def _first_rows(file: Path, column: str) -> list[Any]:
    """The cells of a column in the first row group of a Parquet file."""
    reader = extra("pyarrow.parquet", "tables")
    try:
        opened = reader.ParquetFile(file)
        cells = opened.read_row_group(0, columns=[column]).column(column)[:SIZES_READ].to_pylist()
    except (OSError, ValueError, IndexError):
        return []  # reading the images raises an error with its name
    return [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]


def _schema(file: Path) -> Any:
    """The schema of a Parquet file."""
    reader = extra("pyarrow.parquet", "tables")
    try:
        return reader.read_schema(file)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise BeelineError(f"{file} is no Parquet file ({error}); it is damaged or has another format") from error
