"""Recipe selection by the kind of a data file or folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from beeline.core.errors import BeelineError
from beeline.data.arrays import SINGLE, array_headers
from beeline.data.image_files import ImageFile
from beeline.data.labels import existing
from beeline.data.pictures.listing import EXTENSIONS, Listing, listing
from beeline.data.point_files import LABEL_ARRAYS, PointFile
from beeline.objectives.matching import Drop, FlowMatching
from beeline.recipes.images import images
from beeline.recipes.points import points
from beeline.recipes.sequences import sequences
from beeline.recipes.tables import table
from beeline.runs.run import Run

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
ARRAYS = (".npy", ".npz")
SIZES_READ = 300  # images of a folder whose sizes are read
SIDE = 64  # pixels per side to which images of several sizes, or larger ones, are scaled


def recipe_for(path: str, side: int = SIDE) -> Run:
    """The recipe for a data file or folder.

    A CSV, TSV or Parquet file is a table.  A Parquet file with encoded images, a folder of images, and uint8 arrays
    [N,H,W] or [N,H,W,C] are images.  Other arrays are points, and a text file contains sequences.  Images of several
    sizes, or larger than ``side`` pixels, are cropped to their central square and scaled.

    Raises BeelineError for a path that is missing, empty or of an unknown kind.
    """
    place = existing(path)
    if place.is_dir():
        return _folder(place, side)
    name = place.name.lower()
    if name.endswith((".parquet", ".pq")) and _holds_images(place):
        return replace(images(path), data=ImageFile(path, resize=side))
    if name.endswith(TABLES):
        return table(path)
    if name.endswith(ARRAYS):
        return _array(path, side)
    if name.endswith(".txt"):
        return sequences(path)
    if name.endswith(EXTENSIONS):
        raise BeelineError(f"{path} is a single picture; a model learns from many: give a folder of pictures")
    raise BeelineError(
        f"{path} has the ending {place.suffix!r}, which no recipe reads; give a table ({', '.join(TABLES)}), an array "
        f"({', '.join(ARRAYS)}), a text file of sequences (.txt), or a folder of pictures"
    )


def _array(path: str, side: int) -> Run:
    """The recipe of an array file, from the headers of its arrays."""
    arrays = array_headers(Path(path))
    pictures = [arrays[name] for name in ("x_train", "images") if name in arrays]
    single = arrays.get(SINGLE)
    if single is not None and single.dtype == np.uint8 and len(single.shape) in (3, 4):
        pictures.append(single)
    if pictures:
        large = max(pictures[0].shape[1:3], default=0) > side
        return replace(images(path), data=ImageFile(path, resize=side if large else None))
    label = next((name for name in LABEL_ARRAYS if name in arrays), None)
    if label is None:
        return points(path)
    return replace(points(path), data=PointFile(path, label=label), objective=FlowMatching(drop=Drop(0.1)))


def _folder(place: Path, side: int) -> Run:
    pictures = listing(place)
    if len(pictures):
        return replace(images(str(place)), data=ImageFile(str(place), resize=_common_side(pictures, side)))
    files = [place / name for name in pictures.skipped]
    parquet = [file for file in files if file.suffix.lower() in (".parquet", ".pq")]
    if parquet and _holds_images(parquet[0]):
        return replace(images(str(place)), data=ImageFile(str(place), resize=side))
    endings = sorted({file.suffix.lower() or file.name for file in files})
    found = f"{len(files)} files ({', '.join(endings[:6])})" if files else "no files"
    raise BeelineError(
        f"{place} holds {found} and no pictures; give a folder of pictures ({', '.join(EXTENSIONS)}), with one "
        "subfolder per class where there are classes, or name a single file"
    )


def _common_side(pictures: Listing, side: int) -> int | None:
    """The side to which all images are scaled, or None for images of one small size."""
    from PIL import Image

    step = max(1, len(pictures) // SIZES_READ)
    sizes = set()
    for i in range(0, len(pictures), step):
        try:
            with Image.open(pictures.path(i)) as opened:
                sizes.add(opened.size)
        except OSError:
            continue  # reading the images raises an error with its name
    if len(sizes) == 1 and max(next(iter(sizes))) <= side:
        return None
    least = min((min(size) for size in sizes), default=side)
    return max(8, min(side, least) // 8 * 8)  # networks halve the sides up to three times


def _holds_images(file: Path) -> bool:
    """Whether a Parquet file has a column of encoded images."""
    from beeline.core.errors import extra

    parquet = extra("pyarrow.parquet", "tables")
    try:
        fields = list(parquet.read_schema(file))
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise BeelineError(f"{file} is no Parquet file ({error}); it is damaged or has another format") from error
    return any(str(field.type).startswith("struct<bytes: binary") for field in fields)
