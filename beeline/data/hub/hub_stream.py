"""Images of Hugging Face data sets that are streamed: read in order, over a network or from files."""

from __future__ import annotations

import copy
import functools
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, extra, nearest, require
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.hub.features import Columns, columns_of
from beeline.data.hub.given import given, is_given
from beeline.data.hub.opening import hub_name, is_name, library, parquet_files, reachable
from beeline.data.images import Image, Images
from beeline.data.labels import Array
from beeline.data.records.record_images import SIZES_READ, DecodedImages
from beeline.training.feed.streams import Stream, StreamFeed


@dataclass(frozen=True)
class HubStream(DecodedImages):
    """Images of a Hugging Face data set that is streamed, and so may be larger than the disk.

    hf:owner/name of the hub, or Parquet files.  The first ``held`` images are held out, and the next ``first`` ones
    give sizes, classes and the baselines of the held-out loss.
    Images are shuffled within ``buffer`` of them, in the order of the stream; a data set whose shards are sorted by
    class should be stored in another order.  A resumed run continues with the next image.  ``parts`` of the stream are
    read side by side, each from its own shards if there are enough: give the number of processes in parallel training.

    >>> HubStream("hf:owner/name", resize=64, parts=8).buffer
    1000
    """

    split: str = "train"
    image: str | None = None  # the column of the images; None for the only one, or the first
    classes: Count | None = None  # number of classes of labels that are numbers; None infers it from the first images
    buffer: Count = 1000  # images in memory, encoded, that are shuffled together
    parts: Count = 1

    def load(self) -> tuple[Images, Images]:
        """(some training images, held-out images)."""
        held, some = self._some()
        names = self._names([*held, *some])
        raw = self.images(self._records(some, names), self.channels)
        other = self.images(self._records(held, names), raw.pixels.shape[3])
        return Images(raw.pixels, raw.labels, raw.names), Images(other.pixels, other.labels, other.names)

    def microbatches(self, modality: Image, rng: Rng) -> ImageStreamFeed:
        return ImageStreamFeed(self, modality, rng)

    def summary(self) -> str:
        held, some = self._some()
        names = self._names([*held, *some])
        image, label = self._columns()
        lines = [f"{self.path}, streamed: {len(held):,} images held out, images in column {image!r}"]
        lines += self.described(None if label is None else some, names)
        return "\n".join(
            [*lines, *columns_of(features(self._stream)).lines([image, *([] if label is None else [label])])]
        )

    def some(self) -> Listed:
        """Some of the images, without labels."""
        records = itertools.islice(iter(copy.deepcopy(self._stream)), SIZES_READ)
        return Listed(self.path, list(records), self._columns()[0], None, ())

    def streams(self) -> list[Stream]:
        """The parts of the stream."""
        image, label = self._columns()
        kept = self._stream.select_columns([image, label] if label is not None else [image])
        if image in columns_of(kept.features or {}).images:
            kept = kept.cast_column(image, library().Image(decode=False))
        if self.parts == 1:
            return [copy.deepcopy(kept)]
        split = extra("datasets.distributed", "datasets").split_dataset_by_node
        return [copy.deepcopy(split(kept, i, self.parts)) for i in range(self.parts)]

    @property
    def each(self) -> int:
        """Held-out images of a part."""
        return -(-self.held // self.parts)

    @property
    def _stream(self) -> Any:
        return _opened(self.path, self.split)

    def _columns(self) -> tuple[str, str | None]:
        """The columns of the images and of the labels."""
        columns = columns_of(features(self._stream))
        known = list(columns.images)
        require(known, f"{self.path} has no column of images; stream Parquet tables with TableStream, or save the data")
        image = known[0] if self.image is None else self.image
        require(image in known, f"{self.path} has no column {image!r} of images; {nearest(image, known)}")
        return image, self._label(columns)

    def _label(self, columns: Columns) -> str | None:
        found = columns.label(self.label) if self.labels else None
        feature = _described(features(self._stream).get(found or ""))
        plain = feature.startswith(("int", "uint", "string", "large_string"))
        return found if found is None or self.label or found in columns.classes or plain else None

    def _some(self) -> tuple[list[Any], list[Any]]:
        """(held-out, further) records, from all parts."""
        held: list[Any] = []
        some: list[Any] = []
        for stream in self.streams():
            records = iter(stream)
            held += itertools.islice(records, self.each)
            some += itertools.islice(records, -(-self.first // self.parts))
        require(
            held and some,
            f"{self.path} has {len(held) + len(some)} images, of which the first {self.held} are held out and none is "
            "left; give fewer with held=",
        )
        return held, some

    def _names(self, records: Sequence[Any]) -> tuple[str, ...]:
        """The names of the classes: of the feature, or those of the first records."""
        _, label = self._columns()
        if label is None:
            return ()
        names = columns_of(features(self._stream)).classes.get(label)
        if names:
            return names
        found = {record[label] for record in records}
        if all(isinstance(value, int) for value in found) and min(found) >= 0:
            return tuple(str(i) for i in range(self.classes or max(found) + 1))
        return tuple(sorted(str(value) for value in found))

    def _records(self, records: Sequence[Any], names: tuple[str, ...]) -> Listed:
        image, label = self._columns()
        return Listed(self.path, records, image, label, names)


class Listed:
    """Records of a stream in memory."""

    def __init__(self, where: str, records: Sequence[Any], image: str, label: str | None, names: tuple[str, ...]):
        self.where, self.records, self.image, self.names = where, records, image, names
        self.labels: Array | None = None
        if label is not None:
            self.labels = np.array([self._class(record[label], label) for record in records], np.int64)

    def __len__(self) -> int:
        return len(self.records)

    def contents(self, rows: Sequence[int]) -> Sequence[tuple[str, Any]]:
        return [(f"{self.where}, an image of the stream", _content(self.records[row][self.image])) for row in rows]

    def _class(self, value: Any, label: str) -> int:
        """The class of a label: a number, or the place of a text among the names."""
        if isinstance(value, str) and value in self.names:
            return self.names.index(value)
        if isinstance(value, int) and 0 <= value < len(self.names):
            return value
        raise BeelineError(
            f"{self.where}, column {label!r}: there is a label {value!r} that the first images do not have "
            f"({', '.join(self.names[:8])}); give the number of classes with classes=, more images with first=, or "
            "labels=False"
        )


class ImageStreamFeed(StreamFeed):
    """Microbatches of the images of a stream."""

    def __init__(self, data: HubStream, modality: Image, rng: Rng):
        streams = data.streams()
        super().__init__(streams, data.buffer, data.each, rng, counted=any(map(shuffles, streams)))
        self.data, self.modality, self.rng = data, modality, rng
        self.names = modality.names or tuple(str(i) for i in range(modality.classes))

    def batch(self, records: Sequence[Any], number: int) -> Batch:
        listed = self.data._records(records, self.names)
        raw = self.data.images(listed, self.modality.shape[0], each=self.each)
        return self.data.encoded(raw, self.modality, self.rng.fork("augment", number))

    def encode(self, batch: Batch) -> Batch:
        return replace(batch, x1=self.modality.scaled(batch.x1))


@functools.lru_cache(maxsize=2)
def _opened(path: str, split: str) -> Any:
    """A data set of the library, streamed."""
    if is_given(path):
        return given(path)
    datasets = library()
    if is_name(path):
        name, config = hub_name(path)
        with reachable(path):
            return datasets.load_dataset(name, config, split=split, streaming=True)
    files = parquet_files(Path(path).expanduser())
    require(files["train"], f"{path} has no Parquet files to stream; give their folder, or hf:owner/name")
    return datasets.load_dataset("parquet", data_files=files["train"], split="train", streaming=True)


def features(stream: Any) -> Mapping[str, Any]:
    """The features of a stream; where it declares none, those of its first record."""
    if stream.features is not None:
        found: Mapping[str, Any] = stream.features
        return found
    record: Mapping[str, Any] = next(iter(copy.deepcopy(stream)), {})
    return {name: {"_type": _type(value), "dtype": _dtype(value)} for name, value in record.items()}


def _described(feature: Any) -> str:
    """The dtype of a feature of the library, or of its description."""
    if feature is None:
        return ""
    return str(feature.get("dtype") if isinstance(feature, Mapping) else vars(feature).get("dtype"))


def _type(value: Any) -> str:
    from PIL.Image import Image as Picture

    encoded = isinstance(value, dict) and isinstance(value.get("bytes"), bytes)
    return "Image" if encoded or isinstance(value, Picture) else "Value"


def _dtype(value: Any) -> str:
    kinds = {int: "int64", str: "string", float: "float64", bool: "bool"}
    return kinds.get(type(value), type(value).__name__)


def _content(cell: Any) -> Any:
    """The bytes of an image: encoded already, of its file, or of a decoded picture."""
    from PIL.Image import Image as Picture

    if isinstance(cell, Picture):
        out = io.BytesIO()
        cell.save(out, "PNG", compress_level=0)
        return out.getvalue()
    if not isinstance(cell, dict):
        return cell
    if cell.get("bytes") is None and cell.get("path") and Path(cell["path"]).is_file():
        return Path(cell["path"]).read_bytes()
    return cell.get("bytes")


def shuffles(stream: Any) -> bool:
    """Whether a step of a stream has a shuffle buffer, whose records its state lacks."""
    module = library().iterable_dataset
    todo, seen = list(vars(stream).values()), set()
    while todo:
        step = todo.pop()
        if isinstance(step, module.BufferShuffledExamplesIterable):
            return True
        if isinstance(step, list | tuple):
            todo.extend(step)
        elif type(step).__module__ == module.__name__ and id(step) not in seen:
            seen.add(id(step))
            todo.extend(vars(step).values() if "__dict__" in dir(step) else ())
    return False
