"""The image files of a folder with their sizes and times, listed without opening them."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import require

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files below ``root``, sorted by the parts of their paths.

    Hidden files and folders are left out.  A folder directly in ``root`` may be a symbolic link; links to folders
    below it are not followed.
    """

    root: Path
    names: Sequence[str]  # relative to root, with "/" between parts
    sizes: Any  # int64 [N], bytes
    times: Any  # int64 [N], time of the last change in nanoseconds
    skipped: Sequence[str] = field(default_factory=tuple)  # files that are no images

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> str:
        """The path of image ``i``."""
        return os.path.join(self.root, self.names[i])

    def folders(self) -> list[str]:
        """The first folder of every image, "" for an image directly in ``root``."""
        return [name.partition("/")[0] if "/" in name else "" for name in self.names]

    def counts(self) -> dict[str, int]:
        """Number of images by their folder."""
        return dict(collections.Counter(os.path.dirname(name) or "." for name in self.names))

    def digest(self) -> str:
        """A hash of names, sizes and times of change."""
        total = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        for numbers in (self.sizes, self.times):
            total.update(np.ascontiguousarray(numbers).data)
        return total.hexdigest()[:32]

    def rows(self, index: Any) -> Listing:
        """The images at ``index``, an integer array."""
        return Listing(self.root, [self.names[i] for i in index], self.sizes[index], self.times[index])


def listing(root: Path) -> Listing:
    """The image files in a folder and its subfolders.

    Raises BeelineError if the folder does not exist.
    """
    require(root.is_dir(), f"{root} is no folder, so it contains no images; check the path")
    names: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    skipped: list[str] = []
    todo = [""]
    while todo:
        inside = todo.pop()
        with os.scandir(os.path.join(root, inside)) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=not inside):
                    todo.append(name)
                elif is_image(entry.name) and entry.is_file():
                    found = entry.stat()
                    names.append(name)
                    sizes.append(found.st_size)
                    times.append(found.st_mtime_ns)
                elif entry.is_file():
                    skipped.append(name)
    order = sorted(range(len(names)), key=lambda i: names[i].replace("/", "\0"))  # by parts
    index = np.array(order, dtype=np.int64)
    return Listing(
        root,
        [names[i] for i in order],
        np.array(sizes, dtype=np.int64)[index],
        np.array(times, dtype=np.int64)[index],
        tuple(sorted(skipped)),
    )


def is_image(name: str) -> bool:
    """Whether a file name has the extension of an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS
