"""Base of data sets of images that are read one by one, and their feed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from beeline.core.declared import check_members
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.data import Augmentation
from beeline.core.ranges import Count, Inside, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.images import Image, Images
from beeline.data.labels import Array, divide
from beeline.data.modality import DataSetBase
from beeline.data.pictures.pixels import pixels_of, square
from beeline.training.feed.blocks import BlockOrder
from beeline.training.feed.microbatches import FeedBase

Each = Callable[..., Sequence[Any]]
"""(function, inputs, ...) -> the results, in order."""


def plain_map(function: Callable[..., Any], *inputs: Sequence[Any]) -> list[Any]:
    """The results of a function for some inputs, one after the other."""
    return list(map(function, *inputs))


IN_MEMORY = 256 * 2**20  # bytes of pixels up to which all images are decoded before training


class Records(Protocol):
    """Encoded images with random access."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Array | None:
        """The class of every record, integers [N] from 0; None without labels."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all classes; () without labels."""
        ...

    def contents(self, rows: Sequence[int]) -> Sequence[tuple[str, Any]]:
        """(where, encoded image as bytes or decoded image as uint8 array) of some records."""
        ...


@dataclass(frozen=True)
class Subset:
    """Some of the records."""

    records: Records
    index: Array  # int64

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> Array | None:
        return None if self.records.labels is None else self.records.labels[self.index]

    @property
    def names(self) -> tuple[str, ...]:
        return self.records.names

    def contents(self, rows: Sequence[int]) -> Sequence[tuple[str, Any]]:
        return self.records.contents(self.index[np.asarray(rows, np.int64)].tolist())


@dataclass(frozen=True)
class DecodedImages(DataSetBase):
    """Settings of data sets of encoded images, and their decoding."""

    path: str
    resize: int | None = None  # pixels per side of the central square crop; None keeps the size, one for all images
    label: str | None = None  # where the labels are; None for the usual names, if present
    labels: bool = True  # False ignores labels
    augment: Augmentation | tuple[Augmentation, ...] = ()  # of training images: Flip(), RandomCrop(4), or both
    held: Count = 1000  # most held-out images
    first: Count = 2000  # images that are decoded before training where not all are
    channels: int | None = None  # 1 for grayscale, 3 for RGB; None takes 1 where the first images are all grayscale
    background: str = "white"  # colour behind transparent pixels: a name, or #rrggbb

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        require(
            self.channels in (None, 1, 3),
            f"{type(self).__name__} got channels={self.channels!r}; images have 1 channel (grayscale) or 3 (RGB): give "
            "one of them, or None",
        )
        require(
            self.resize is None or (isinstance(self.resize, int) and self.resize >= 1),
            f"{type(self).__name__} got resize={self.resize!r}; but a side has at least one pixel; give an integer, or "
            "None",
        )
        object.__setattr__(self, "augment", tuple(self.augment) if isinstance(self.augment, list) else self.augment)
        for augmentation in self.augmentations:
            check_members(augmentation, Augmentation, "give one of 'beeline list augmentations', such as Flip()")
        require(
            not self._margin or self.resize,
            f"{type(self).__name__} got {self.augment} and no resize, so images have no margin to crop; give resize=, "
            "the side of a crop in pixels",
        )

    def modality(self) -> Image:
        return Image()

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """All augmentations of training images."""
        return self.augment if isinstance(self.augment, tuple) else (self.augment,)

    @property
    def _margin(self) -> int:
        return sum(augmentation.margin for augmentation in self.augmentations)

    def images(
        self, records: Records, channels: int | None, rows: Sequence[int] | None = None, each: Each = plain_map
    ) -> Images:
        """Decoded images of some records with ``channels`` channels; None takes 1 where all are grayscale.

        ``each`` is map, or that of a pool of threads.
        """
        rows = range(len(records)) if rows is None else rows
        found = records.contents(rows)
        names = [where for where, _ in found]
        tiles = each(self.tile, names, [content for _, content in found])
        odd = next((i for i, tile in enumerate(tiles) if tile.shape[:2] != tiles[0].shape[:2]), None)
        if odd is not None:
            a, b = (f"{tiles[i].shape[0]}x{tiles[i].shape[1]}" for i in (0, odd))
            raise BeelineError(
                f"{names[0]} is {a} and {names[odd]} is {b}, but a model has one size; give resize=, for example "
                f"--set data.resize={max(8, min(min(t.shape[:2]) for t in tiles) // 8 * 8)}"
            )
        coloured = next((i for i, tile in enumerate(tiles) if tile.shape[2] == 3), None)
        channels = channels or (1 if coloured is None else 3)
        require(
            channels == 3 or coloured is None,
            f"{names[coloured or 0]} has colours, while the first images have none, and a model has one number of "
            "channels; give channels=3",
        )
        pixels = np.stack([tile if tile.shape[2] == channels else tile.repeat(channels, 2) for tile in tiles])
        if not self.labels or records.labels is None:
            return Images.inside(pixels, self._margin)
        return Images.inside(pixels, self._margin, records.labels[np.asarray(rows)], records.names)

    def tile(self, where: str, content: Any) -> Array:
        """One record as uint8 [H,W,1] or [H,W,3], cropped and scaled."""
        pixels = content if isinstance(content, np.ndarray) else pixels_of(where, content, self.background)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return pixels if self.resize is None else square(pixels, self.resize + 2 * self._margin)

    def encoded(self, raw: Images, modality: Image, rng: Rng) -> Batch:
        """Augmented levels of pixels as uint8, with labels; the form in which feeds load images."""
        x = modality.steps(raw.pixels if raw.wide is None else raw.wide)
        for i, augmentation in enumerate(self.augmentations):
            x = augmentation(x, rng.fork(i))
        return Batch(x, cond=modality.label_condition_of(raw))

    def described(self, labels: Any, names: Sequence[str]) -> list[str]:
        """Lines of a summary about labels and sizes."""
        shown = f": {', '.join(names[:10])}" + ", ..." * (len(names) > 10)
        lines = [f"  labels of {len(names)} classes{shown}"] if self.labels and labels is not None else ["  no labels"]
        size = "images in their own size" if self.resize is None else f"central squares of {self.resize} pixels"
        return [*lines, f"  {size}"]


@dataclass(frozen=True)
class RecordImages(DecodedImages):
    """Data sets of images with random access; a subclass gives ``records``.

    Images that need at most ``IN_MEMORY`` bytes are decoded before training; of more images a part is decoded for the
    baselines of the held-out loss, and the others when a microbatch needs them.
    """

    held_out: Inside = 0.1  # held-out fraction of data without a test split, of at most ``held``
    buffer: Count = 8192  # images that are shuffled together; more are more random and less sequential on the disk

    def records(self) -> tuple[Records, Records | None]:
        """(training records, held-out records or None where there is no such split)."""
        raise NotImplementedError

    def parts(self) -> tuple[Records, Records]:
        """(training, held-out) records."""
        train, held = self.records()
        if held is None:
            learn, keep = divide(len(train), min(self.held_out, self.held / max(1, len(train))), self.path)
            return Subset(train, learn), Subset(train, keep)
        return train, Subset(held, np.arange(min(len(held), self.held)))

    def load(self) -> tuple[Images, Images]:
        """(training images, or some of them, and held-out images)."""
        train, held = self.parts()
        some: Records = train
        if not self._fits(train):
            keep = Rng(0).fork("first").permutation(len(train))[: self.first].sort().values
            some = Subset(train, keep.numpy())
        raw = self.images(some, self.channels)
        other = self.images(held, raw.pixels.shape[3])
        return replace(raw, augment=self.augmentations), Images(other.pixels, other.labels, other.names)

    def microbatches(self, modality: Image, rng: Rng) -> RecordFeed | None:
        train, _ = self.parts()
        return None if self._fits(train) else RecordFeed(self, train, modality, rng)

    def summary(self) -> str:
        """Number of images and classes, sizes, and whether they are decoded before training."""
        train, held = self.parts()
        lines = [f"{self.path}: {len(train):,} images to learn from, {len(held):,} held out"]
        lines += self.described(train.labels, train.names)
        lines[-1] += ", decoded before training" if self._fits(train) else ", decoded when needed"
        return "\n".join(lines + self.notes())

    def notes(self) -> list[str]:
        """Further lines of the summary."""
        return []

    def _fits(self, train: Records) -> bool:
        """Whether all images are decoded before training."""
        side = self.resize
        area = side * side if side is not None else int(np.prod(self.tile(*train.contents([0])[0]).shape[:2]))
        return len(train) * area * 3 <= IN_MEMORY


@dataclass(frozen=True)
class RecordFeed(FeedBase):
    """Microbatches of images that are decoded when they are needed, in the order of ``BlockOrder``."""

    data: RecordImages
    records: Records
    modality: Image
    rng: Rng

    def __len__(self) -> int:
        return len(self.records)

    def rows(self, number: int, size: int) -> Tensor:
        return BlockOrder(len(self.records), self.data.buffer, self.rng).rows(number, size)

    def load(self, number: int, size: int) -> Batch:
        raw = self.data.images(self.records, self.modality.shape[0], self.rows(number, size).tolist())
        return self.data.encoded(raw, self.modality, self.rng.fork("augment", number))

    def encode(self, batch: Batch) -> Batch:
        return replace(batch, x1=self.modality.scaled(batch.x1))

    def microbatch(self, number: int, size: int) -> Batch:
        return self.encode(self.load(number, size))


SIZES_READ = 300  # images whose sizes are read


def sizes_of(records: Records) -> set[tuple[int, int]]:
    """(width, height) of some evenly spaced images."""
    rows = range(0, len(records), max(1, -(-len(records) // SIZES_READ)))
    return sizes_in([content for _, content in records.contents(rows)])


def sizes_in(contents: Sequence[Any]) -> set[tuple[int, int]]:
    """(width, height) of images, encoded or as arrays; those that cannot be read are left to their reader."""
    from PIL import Image as Picture

    found = set()
    for content in contents:
        if isinstance(content, np.ndarray):
            found.add((content.shape[1], content.shape[0]))
        elif isinstance(content, bytes):
            with contextlib.suppress(OSError, SyntaxError, ValueError), Picture.open(io.BytesIO(content)) as opened:
                found.add(opened.size)
    return found


def classified(labels: Array) -> tuple[Array, tuple[str, ...]]:
    """(class of every label, from 0, names of the classes) of labels that are whole numbers or text.

    >>> classified(np.array([9, 2, 9]))
    (array([1, 0, 1]), ('2', '9'))
    """
    values, codes = np.unique(labels, return_inverse=True)
    return codes.astype(np.int64), tuple(str(value) for value in values.tolist())
