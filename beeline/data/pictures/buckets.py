"""Images of several aspect ratios, in buckets of near-equal area."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from beeline.core.declared import check_members
from beeline.core.errors import BeelineError, require
from beeline.core.files import replacing
from beeline.core.protocols.data import Augmentation
from beeline.core.ranges import Count, Inside, Range, dataclass
from beeline.data.images import Image, Images
from beeline.data.labels import Array, divide, existing
from beeline.data.modality import DataSetBase
from beeline.data.pictures.decoding import CACHED, Decoder, by_chunks, cache_folder, decoded
from beeline.data.pictures.folders import Labelled, contents, labelled, splits
from beeline.data.pictures.listing import Listing, listing
from beeline.data.pictures.pixels import cropped

Size = tuple[int, int]
"""(height, width) in pixels."""

TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class ImageBuckets(DataSetBase):
    """Images of a folder in buckets of several aspect ratios and near-equal area; every microbatch is of one bucket.

    bucket(image) = argmin_b |log(w / h) - log(W_b / H_b)|;  H_b, W_b multiples of ``step``, H_b W_b about ``side``^2
    An image is cropped to the aspect ratio of its bucket, which removes little, and scaled.  Assumes a network that
    takes any size, such as UNet or DiT.  The held-out loss, scores and previews use the bucket with most images; the
    condition ``size`` chooses another one for samples: --condition size=48x80 (height x width).
    Source: NovelAI 2022, "Improvements on Stable Diffusion", aspect ratio bucketing.

    >>> bucket_sizes(64, 2.0, 16)
    ((48, 80), (48, 96), (64, 64), (80, 48), (96, 48))
    """

    path: str  # a folder, with one subfolder per class or train/ and test/ if there are any
    side: Count = 64  # square root of the area of a bucket in pixels
    ratio: Annotated[float, Range(least=1.0, most=16.0)] = 2.0  # largest ratio of the sides of a bucket
    step: Count = 8  # sides are multiples of it; a network that halves the sides k times needs 2^k
    held_out: Inside = 0.1  # held-out fraction of every bucket, of a folder without a test split
    labels: bool = True  # False ignores classes
    background: str = "white"  # colour behind transparent pixels: a name, or #rrggbb
    augment: Augmentation | tuple[Augmentation, ...] = ()  # of training images: Flip(), RandomCrop(4), or both
    cache: str | None = None  # folder for decoded images; None for beeline/images in the cache folder of the user

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        object.__setattr__(self, "augment", tuple(self.augment) if isinstance(self.augment, list) else self.augment)
        for augmentation in self._augmentations:
            check_members(augmentation, Augmentation, "give one of 'beeline list augmentations', such as Flip()")
        require(
            bucket_sizes(self.side, self.ratio, self.step),
            f"ImageBuckets got side={self.side} and step={self.step}, for which there is no bucket; give a smaller "
            "step, such as 8",
        )

    def modality(self) -> Image:
        return Image()

    def summary(self) -> str:
        """What the folder contains."""
        return "\n".join(contents(listing(existing(self.path))))

    def load(self) -> tuple[Images, Images]:
        """(training, held-out) images of the largest bucket; the first has the other buckets beside them."""
        place = existing(self.path)
        parts = splits(place) if place.is_dir() else None
        every = labelled(listing(parts[0] if parts else place), classes=self.labels)
        test = None
        if parts and parts[1]:
            test = labelled(listing(parts[1]), every.names, classes=self.labels)
        groups = self._grouped(every)
        main = max(groups, key=lambda size: len(groups[size]))
        unseen = {} if test is None else self._grouped(test)
        require(
            len(groups[main]) >= 2 if test is None else main in unseen,
            f"{place}: the largest bucket {main[0]}x{main[1]} has no held-out image; give more images, or a smaller "
            "ratio",
        )
        sets = {size: self._bucket(files, size, test is None) for size, files in groups.items()}
        held = sets[main][1] if test is None else self._bucket(unseen[main], main, False)[0]
        assert held is not None
        colour = any(train.pixels.shape[3] == 3 for train, _ in sets.values()) or held.pixels.shape[3] == 3
        made = {size: _coloured(train) if colour else train for size, (train, _) in sets.items()}
        others = tuple(made[size] for size in sorted(made) if size != main)
        held = _coloured(held) if colour else held
        return replace(made[main], buckets=others), Images(held.pixels, held.labels, held.names)

    @property
    def _augmentations(self) -> tuple[Augmentation, ...]:
        return self.augment if isinstance(self.augment, tuple) else (self.augment,)

    def _grouped(self, files: Labelled) -> dict[Size, Labelled]:
        """The images of every bucket that has any."""
        sizes = bucket_sizes(self.side, self.ratio, self.step)
        numbers = nearest_buckets(sizes_of(files.files, self.cache), sizes)
        return {sizes[k]: files.rows(np.flatnonzero(numbers == k)) for k in np.unique(numbers).tolist()}

    def _bucket(self, files: Labelled, size: Size, divided: bool) -> tuple[Images, Images | None]:
        """(training, held-out) images of a bucket; the latter is None if it is not ``divided`` or has one image."""
        count = len(files)
        if divided and len(files) > 1:
            learn, keep = divide(len(files), self.held_out, f"{self.path}, bucket {size[0]}x{size[1]}")
            files, count = files.rows(np.concatenate([learn, keep])), len(learn)
        margin = sum(augmentation.margin for augmentation in self._augmentations)
        tall, wide = size[0] + 2 * margin, size[1] + 2 * margin
        decoder = Decoder(self.background, functools.partial(cropped, height=tall, width=wide))
        settings = {"bucket": [tall, wide], "background": self.background, "of": [self.side, self.ratio, self.step]}
        pixels, digest = decoded(files.files, decoder, settings, self.cache)
        whole = Images.inside(pixels, margin, files.labels, files.names)
        train = replace(whole.rows(slice(count)), augment=self._augmentations, digest=digest and f"{digest}[:{count}]")
        return train, whole.rows(slice(count, None)) if count < len(files) else None


def bucket_sizes(side: int, ratio: float, step: int) -> tuple[Size, ...]:
    """The sizes (height, width) of all buckets: multiples of ``step`` with an area near side^2."""
    longest = int(side * math.sqrt(ratio) / step + 1) * step
    found = set()
    for height in range(step, longest + 1, step):
        width = max(1, round(side * side / height / step)) * step
        found |= {(height, width), (width, height)}
    return tuple(sorted(s for s in found if max(s) / min(s) <= ratio and 0.5 <= s[0] * s[1] / side**2 <= 1.5))


def nearest_buckets(found: Array, sizes: Sequence[Size]) -> Array:
    """The index of the bucket with the nearest aspect ratio, [N] for sizes [N,2]."""
    own = np.log(found[:, 1] / found[:, 0])
    buckets = np.log([width / height for height, width in sizes])
    return np.abs(own[:, None] - buckets[None]).argmin(1)


def sizes_of(files: Listing, cache: str | None = None) -> Array:
    """The sizes (height, width) of image files from their headers, int64 [N,2]; of many images they are cached."""
    if len(files) < CACHED:
        return HeaderSizes()((0, [files.path(i) for i in range(len(files))]))
    folder = cache_folder() if cache is None else Path(cache).expanduser()
    key = json.dumps(["sizes", str(files.root.resolve()), files.digest()])
    file = folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:24]}.sizes.npy"
    try:
        found = np.load(file, allow_pickle=False)
        if found.shape == (len(files), 2):
            return found
    except (OSError, ValueError):
        pass
    found = np.concatenate(list(by_chunks(HeaderSizes(), files, "reading sizes of images")))
    try:
        with replacing(file) as temporary, open(temporary, "wb") as out:
            np.save(out, found)
    except BeelineError:
        if cache is not None:
            raise
    return found


@plain_dataclass(frozen=True)
class HeaderSizes:
    """Reads sizes from the headers of images; a damaged one is refused when it is decoded."""

    def __call__(self, chunk: tuple[int, Sequence[str]]) -> Array:
        return np.array([self._size(path) for path in chunk[1]], dtype=np.int64)

    def _size(self, path: str) -> Size:
        from PIL import Image as Picture

        try:
            with Picture.open(path) as opened:
                width, height = opened.size
                turned = opened.getexif().get(ORIENTATION) in TURNED
        except Exception:  # PIL raises errors of many types for damaged bytes; decoding names the file
            return 1, 1
        return (width, height) if turned else (height, width)


def _coloured(raw: Images) -> Images:
    """Grayscale images as RGB, without a copy."""
    if raw.pixels.shape[3] == 3:
        return raw
    wide = raw.pixels if raw.wide is None else raw.wide
    spread: Any = np.broadcast_to(wide, (*wide.shape[:3], 3))
    made = Images.inside(spread, raw.margin, raw.labels, raw.names)
    return replace(made, augment=raw.augment, digest=raw.digest)
