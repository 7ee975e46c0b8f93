"""Training data from images in 8-bit pixels, encoded by microbatch."""

from __future__ import annotations

import functools
import mmap
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, map_cond
from beeline.data.described.descriptions import Stored
from beeline.data.labels import Array
from beeline.training.compare import fingerprint, settings
from beeline.training.feed.microbatches import FeedBase, epoch_rows

if TYPE_CHECKING:  # annotations alone: images import this module
    from beeline.data.images import Image, Images


def release(array: Array) -> None:
    """Return the pages of a memory-mapped array to the operating system, which may still hold them in its cache.

    Otherwise all pages that were ever read count as memory of the process.  Other arrays are left alone.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and sys.platform.startswith("linux"):
        base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, eq=False)
class ImageFeed(FeedBase):
    """Images as training data, encoded by microbatch.

    Images are taken and augmented as 8-bit pixels, in worker processes if there are any, and converted to floating
    point on the device of the networks.  Microbatch n is augmented with the random key of n.

    >>> import numpy as np
    >>> from beeline.data.images import Image, Images
    >>> raw = Images(np.zeros((6, 4, 4, 3), np.uint8))
    >>> ImageFeed(Image().fit(raw), raw, Rng(0)).load(0, 2).x1.dtype
    torch.uint8
    """

    modality: Image
    raw: Images
    rng: Rng

    def __len__(self) -> int:
        return len(self.raw)

    def rows(self, number: int, size: int) -> Tensor:
        return epoch_rows(self.rng, len(self), number, size)

    def load(self, number: int, size: int) -> Batch:
        rows = self.rows(number, size)
        pixels = self.raw.pixels if self.raw.wide is None else self.raw.wide
        x = self.modality.steps(pixels[rows.numpy()])
        release(pixels)
        for i, augmentation in enumerate(self.raw.augment):
            x = augmentation(x, self.rng.fork("augment", number, i))
        return Batch(x, cond=self.conditions(rows))

    def encode(self, batch: Batch) -> Batch:
        return replace(batch, x1=self.modality.scaled(batch.x1), cond=in_float32(batch.cond))

    def microbatch(self, number: int, size: int) -> Batch:
        return self.encode(self.load(number, size))

    def conditions(self, rows: Tensor) -> Cond:
        """The conditions of some images, as they are stored."""
        label = map_cond(lambda leaf: leaf[rows], self.labels)
        return label if self.stored is None else {**(label or {}), **self.stored(rows)}  # type: ignore[dict-item]

    @functools.cached_property
    def labels(self) -> Cond:
        """The labels of all images as a condition."""
        return self.modality.label_condition_of(self.raw)

    @functools.cached_property
    def stored(self) -> Stored | None:
        """The encoded columns of all images; None where they have none."""
        described, columns = self.modality.described, self.raw.columns
        return None if described is None or columns is None else described.stored(columns)

    @property
    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {"pixels": self.raw.fingerprint()}
        found |= {} if self.raw.labels is None else {"labels": fingerprint(torch.from_numpy(self.raw.labels))}
        if self.stored is not None and self.raw.columns is not None and self.modality.described is not None:
            found |= {"columns": self.raw.columns.digest, "encoders": dict(self.modality.described.weights)}
        return found | {"augment": settings(self.raw.augment)}


def in_float32(cond: Cond) -> Cond:
    """A condition whose numbers are float32; they are stored and moved in half precision."""
    return map_cond(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, cond)


@dataclass(frozen=True, eq=False)
class BucketFeed(FeedBase):
    """Images of several sizes: every microbatch is of one size.

    An epoch has ceil(N_b / size) microbatches of bucket b, in random order.  The images of a bucket are shuffled every
    time that all of them were used.

    >>> BucketFeed((), Rng(0)).identity
    {'buckets': []}
    """

    parts: tuple[ImageFeed, ...]  # one for each bucket
    rng: Rng

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def load(self, number: int, size: int) -> Batch:
        bucket, index = self.place(number, size)
        return self.parts[bucket].load(index, size)

    def encode(self, batch: Batch) -> Batch:
        return self.parts[0].encode(batch)

    def microbatch(self, number: int, size: int) -> Batch:
        return self.encode(self.load(number, size))

    def place(self, number: int, size: int) -> tuple[int, int]:
        """The bucket of a microbatch, and its number among those of the bucket."""
        counts = [-(-len(part) // size) for part in self.parts]
        epoch, k = divmod(number, sum(counts))
        buckets = torch.repeat_interleave(torch.tensor(counts))
        order = buckets[self.rng.fork("buckets", epoch).permutation(len(buckets))]
        bucket = int(order[k])
        return bucket, epoch * counts[bucket] + int((order[:k] == bucket).sum())

    @property
    def identity(self) -> dict[str, Any]:
        return {"buckets": [part.identity for part in self.parts]}
