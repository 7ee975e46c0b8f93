"""Images in tar shards, as webdataset writes them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import nearest, require
from beeline.core.ranges import dataclass
from beeline.data.labels import Array
from beeline.data.pictures.folders import HELD_OUT, TRAINING
from beeline.data.records.record_images import RecordImages, Records, classified
from beeline.data.records.tar_index import LABEL_ENDINGS, Index, shard_files


class TarRecords:
    """The images of some shards; a member is read when it is needed, without the rest of its shard."""

    def __init__(self, index: Index, names: tuple[str, ...] | None = None):
        self.index = index
        self.labels: Array | None = None
        self.names: tuple[str, ...] = ()
        if index.texts is not None:
            whole = all(_is_whole(text) for text in np.unique(index.texts).tolist())
            self.labels, self.names = classified(index.texts.astype(np.int64) if whole else index.texts)
        if names is not None and self.labels is not None:  # of the training split
            for name in self.names:
                require(
                    name in names,
                    f"{index.files[0]}: the label {name!r} is one that the training split does not have; "
                    f"{nearest(name, names)}",
                )
            self.labels = np.array([names.index(name) for name in self.names])[self.labels]
            self.names = names

    def __len__(self) -> int:
        return len(self.index)

    def contents(self, rows: Sequence[int]) -> Sequence[tuple[str, Any]]:
        index, found = self.index, dict[int, tuple[str, Any]]()
        for row in sorted(set(rows)):  # in the order of the disk
            file = index.files[index.shard[row]]
            with open(file, "rb") as opened:
                opened.seek(int(index.offset[row]))
                found[row] = f"{file}, image {row} at byte {index.offset[row]}", opened.read(int(index.size[row]))
        return [found[row] for row in rows]


@dataclass(frozen=True)
class TarShards(RecordImages):
    """Images in tar shards: a folder of .tar files, a pattern such as data-{000..099}.tar, or one shard.

    A sample is the members with one name before the first dot: 000001.jpg with 000001.cls (a whole number or a name),
    000001.json (an entry label) or 000001.txt (a short text).  Shards in a folder whose names begin with test or
    validation are held out; else a random part of the images is.
    The headers of the shards are read once, and images are then found by their position: any order, any number of
    worker processes and any process of a parallel training read what they need and nothing else.

    >>> TarShards("shards/data-{000..099}.tar", resize=64).buffer
    8192
    """

    def records(self) -> tuple[Records, Records | None]:
        files = tuple(shard_files(self.path))
        stamps = tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file())
        return _records(self.path, files, stamps, self.label)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.label is None or self.label in LABEL_ENDINGS,
            f"TarShards got label={self.label!r}; the label of a sample is in a member {', '.join(LABEL_ENDINGS)}: "
            "give one of these endings",
        )

    def notes(self) -> list[str]:
        train, _ = self.records()
        assert isinstance(train, TarRecords)
        files, ending = train.index.files, train.index.ending
        labels = "no labels" if ending is None else f"labels from .{ending}"
        return [f"  {len(files)} shards, {int(train.index.size.sum()) / 2**20:,.1f} MiB of images; {labels}"]


@functools.lru_cache(maxsize=2)
def _records(
    path: str, files: tuple[Path, ...], stamps: tuple[Any, ...], label: str | None
) -> tuple[TarRecords, TarRecords | None]:
    """Both splits of some shards; ``stamps`` are their sizes and times, with which the index is out of date."""
    require(
        len(files) == len(stamps) > 0,
        f"{path} has no shards; give a folder of .tar files, or a pattern such as data-{{000..099}}.tar",
    )
    folder = Path(path).expanduser().is_dir()
    held = next((part for w in HELD_OUT if folder and (part := [f for f in files if f.name.startswith(w)])), [])
    train = [f for f in files if f.name.startswith(TRAINING)] if held else list(files)
    train = train or [f for f in files if f not in held]
    if not train:  # all of them are named so
        train, held = held, []
    made = TarRecords(Index(train, label))
    return made, TarRecords(Index(held, made.index.ending), made.names) if held else None


def _is_whole(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 18
