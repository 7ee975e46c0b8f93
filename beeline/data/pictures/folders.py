"""Folders of images: splits, classes, and what a folder contains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import nearest, require
from beeline.data.described.descriptions import Columns
from beeline.data.labels import Array
from beeline.data.pictures.listing import EXTENSIONS, Listing

HELD_OUT = (
    "test",
    "testing",
    "validation",
    "valid",
    "val",
    "dev",
    "eval",
)  # names of held-out splits, the preferred one first
TRAINING = ("train", "training")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Image files with the class of each, if there are classes."""

    files: Listing
    labels: Array | None
    names: tuple[str, ...] = ()
    columns: Columns | None = None  # captions and other values of every image

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, index: Any) -> Labelled:
        """The files at ``index``, an integer array."""
        labels = None if self.labels is None else self.labels[index]
        columns = None if self.columns is None else self.columns.rows(index)
        return Labelled(self.files.rows(index), labels, self.names, columns)


def splits(place: Path) -> tuple[Path, Path | None] | None:
    """The folders (training, held-out) in a folder, the second may be missing; None if it is not divided."""
    inside = [p for p in sorted(place.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    named = {p.name.lower(): p for p in inside}
    # train and test are names of splits only if there are no other folders
    first = next((named[name] for name in TRAINING if name in named), None)
    if first is None or not set(named) <= {*TRAINING, *HELD_OUT}:
        return None
    return first, next((named[name] for name in HELD_OUT if name in named), None)


def labelled(files: Listing, names: tuple[str, ...] = (), *, classes: bool = True, required: str = "") -> Labelled:
    """The images of a folder with their classes, which are the folders in it.

    ``names`` are the classes of the training split, if there is one.  ``classes=False`` ignores classes, and
    ``required`` is the name of the label that a user asked for.  Raises BeelineError for a folder without images, for
    images beside class folders, and for an unknown class.
    """
    place, folders = files.root, files.folders()
    found = tuple(name for name in dict.fromkeys(folders) if name)
    loose = next((name for name, folder in zip(files.names, folders, strict=True) if not folder), "")
    require(
        len(files),
        f"{place} contains no images ({', '.join(EXTENSIONS)}) and no .parquet files; give the folder of the "
        "images, or of their class folders",
    )
    require(
        not (loose and found),
        f"{place} contains images ({loose}) beside the class folders {', '.join(found)}, "
        "and their class is unknown; move them into a class folder, or remove them",
    )
    require(
        not (loose and required and classes),
        f"label={required!r}, but {place} has no class folders; move the images into one folder per "
        "class, or leave label out",
    )
    if loose or not classes:
        return Labelled(files, None)
    names = names or found
    for name in found:
        require(
            name in names,
            f"{place / name} is a class that the training split does not have; {nearest(name, names)}",
        )
    numbers = {name: i for i, name in enumerate(names)}
    return Labelled(files, np.array([numbers[folder] for folder in folders], dtype=np.int64), names)


def contents(files: Listing) -> list[str]:
    """Lines of text: the number of images in every folder, and the files that are skipped; none without images."""
    if not len(files):
        return []
    counts = files.counts()
    lines = [f"{files.root}: {len(files):,} images"]
    lines += [f"  {name}: {count:,}" for name, count in list(counts.items())[:20]]
    lines += [f"  and {len(counts) - 20} more folders"] if len(counts) > 20 else []
    other = [name.rpartition("/")[2] for name in files.skipped]
    lines += [f"  skipped, no image extension: {len(other):,} files ({', '.join(other[:5])})"] * bool(other)
    return lines
