"""The modality of images: 8-bit pixels, encoded in [-1, 1]."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.files import replacing
from beeline.core.protocols.data import ENCODED, Augmentation
from beeline.core.protocols.training import Feed
from beeline.core.ranges import Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.arrays import as_array, as_pictures, coded, no_labels
from beeline.data.described.descriptions import Columns, Descriptions
from beeline.data.labels import (
    Array,
    check_labels,
    class_indices,
    classes_of,
    label_condition,
    label_conditions,
    labels_of,
    numeric,
    stored_labels,
)
from beeline.data.modality import ModalityBase
from beeline.data.pictures.feeds import BucketFeed, ImageFeed
from beeline.data.pictures.pixels import square
from beeline.training.compare import fingerprint

SIZE = "size"  # the condition that chooses a bucket


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, with optional labels.

    ``pixels`` may be a memory map.  ``margin`` pixels on every side surround the images in ``wide``, for augmentations
    that crop; ``pixels`` is then its centre.
    """

    pixels: Array  # uint8 [N,H,W,C]; [N,H,W] is one channel
    labels: Array | None = None  # int64 [N], from 0
    names: tuple[str, ...] = ()  # of the classes, in the order of their labels; empty if unknown
    augment: tuple[Augmentation, ...] = ()  # applied to the images of a microbatch, in this order
    wide: Array | None = None  # uint8 [N,H+2m,W+2m,C]; None without a margin
    buckets: tuple[Images, ...] = ()  # training images of other sizes, and the same classes
    digest: str = ""  # a hash of the pixels, if one is known
    columns: Columns | None = None  # captions and other values of every image

    def __post_init__(self) -> None:
        pixels = self.pixels.numpy() if isinstance(self.pixels, Tensor) else np.asarray(self.pixels)
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        require(
            pixels.dtype == np.uint8,
            f"the pixels are {pixels.dtype}, but images have 8 bits; scale them to 0 .. 255 and convert them to uint8",
        )
        require(
            pixels.ndim == 4 and 0 not in pixels.shape,
            f"the pixels have shape {pixels.shape}; give [N,H,W,C], or [N,H,W] for grayscale, with at least one image",
        )
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "names", tuple(self.names))
        if self.labels is not None:
            classes = len(self.names) or None
            object.__setattr__(self, "labels", check_labels(self.labels, len(pixels), classes, "labels"))

    def __len__(self) -> int:
        return len(self.pixels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The pixels [N,H,W,C], so that NumPy functions take images."""
        return np.array(self.pixels, dtype) if copy else np.asarray(self.pixels, dtype)

    def rows(self, index: Any) -> Images:
        """The images at ``index``, an integer array or a slice."""
        labels = None if self.labels is None else self.labels[index]
        columns = None if self.columns is None else self.columns.rows(index)
        if self.wide is None:
            return replace(self, pixels=self.pixels[index], labels=labels, digest="", buckets=(), columns=columns)
        inside = Images.inside(self.wide[index], self.margin, labels, self.names)
        return replace(inside, augment=self.augment, columns=columns)

    def fingerprint(self) -> str:
        """The hash of the pixels, computed where it is not known."""
        pixels = self.pixels if self.wide is None else self.wide
        return self.digest or fingerprint(torch.from_numpy(np.require(pixels, requirements="W")))

    @property
    def margin(self) -> int:
        """Pixels around the images in ``wide``."""
        return 0 if self.wide is None else (self.wide.shape[1] - self.pixels.shape[1]) // 2

    @staticmethod
    def inside(wide: Array, margin: int, labels: Array | None = None, names: Sequence[str] = ()) -> Images:
        """The images in the centre of larger ones."""
        if not margin:
            return Images(wide, labels, tuple(names))
        return Images(wide[:, margin:-margin, margin:-margin], labels, tuple(names), wide=wide)


@dataclass(frozen=True)
class Image(ModalityBase):
    """Images [C,H,W] in [-1, 1]; every pixel level is an interval of the same width.

    x = 2 (k + u) / levels - 1,  k = 0 .. levels-1 the level,  u = 1/2, or u ~ U(0, 1) with an ``rng``;
    k = floor(levels (x + 1) / 2), within 0 .. levels-1
    Assumes 8-bit pixels round(255 k / (levels - 1)).  decode(encode(x)) = x for any u.
    Source: Theis et al. 2016 (arXiv 1511.01844), uniform dequantisation.

    >>> raw = Images(np.array([[[0, 255]]], np.uint8))
    >>> Image().fit(raw).encode(raw).x1.flatten()
    tensor([-0.9961,  0.9961])
    """

    shape: tuple[int, ...] = ()  # (C,H,W), set by ``fit``
    classes: Whole = 0  # number of classes, 0 without labels; set by ``fit``
    names: tuple[str, ...] = ()  # of the classes; empty if unknown
    levels: int = 256  # distinct values of a pixel, 2 to 256
    sizes: tuple[tuple[int, int], ...] = ()  # (H,W) of all buckets; empty for images of one size
    described: Descriptions | None = None  # encoders of captions and other columns
    preview_type = "image/png"
    formats = (".png", ".npz", ".npy", "")  # that ``save`` writes; the last is a directory of single images

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "sizes", tuple((int(height), int(width)) for height, width in self.sizes))
        require(
            isinstance(self.levels, int) and 2 <= self.levels <= 256,
            f"Image got levels={self.levels!r}, but an 8-bit pixel has 2 to 256 levels; give 256 for photographs",
        )

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        more = {} if self.described is None else self.described.conditions
        return label_conditions(self.classes) | more

    def fit(self, raw: Images) -> Image:
        """A new modality for the size, channels and classes of ``raw``."""
        _, h, w, c = raw.pixels.shape
        self._steps(raw.pixels)
        classes, names = classes_of(raw.labels, raw.names or self.names, self.classes)
        sizes = tuple(sorted(part.pixels.shape[1:3] for part in (raw, *raw.buckets))) if raw.buckets else ()
        return replace(
            self,
            shape=(c, h, w),
            classes=classes,
            names=names if classes == len(names) else (),
            sizes=sizes,
            described=None if self.described is None else self.described.fit(),
        )

    @property
    def fixed_size(self) -> bool:
        return not self.sizes

    @property
    def offers(self) -> Mapping[str, Any]:
        return {"any_size": True} if self.sizes else {}

    def of_condition(self, value: Any) -> tuple[Image, Any]:
        """The modality of the bucket that the condition ``size`` names, and the rest of the condition.

        A size is (height, width), or text such as "48x80".
        """
        if not self.sizes or not isinstance(value, Mapping) or SIZE not in value:
            return self, value
        given, rest = value[SIZE], {name: part for name, part in value.items() if name != SIZE}
        known = {f"{height}x{width}": (height, width) for height, width in self.sizes}
        text = given if isinstance(given, str) else "x".join(str(side) for side in np.atleast_1d(given).tolist())
        require(text in known, f"there is no bucket of the size {given!r} (height x width); {nearest(text, known)}")
        return replace(self, shape=(self.shape[0], *known[text])), rest or None

    def raw(self, values: Any, labels: Any = None) -> Images:
        """Images from an array or tensor and their labels; those of another size are cropped and scaled to a square."""
        if isinstance(values, Images):
            no_labels(labels, "Images, which hold their own")
            return values
        array = as_array(values)
        require(array is not None, f"the images are {type(values).__name__}; give an array or a tensor [N,H,W,C]")
        assert array is not None
        pixels = as_pictures(array)
        side = self.shape[1] if self.shape and self.shape[1] == self.shape[2] else 0
        if side and pixels.dtype == np.uint8 and pixels.ndim in (3, 4) and pixels.shape[1:3] != (side, side):
            pixels = np.stack([square(tile, side) for tile in pixels])
        if labels is None:
            return Images(pixels)
        return Images(pixels, *coded(labels, len(pixels), self.names))

    def encode(self, raw: Images, rng: Rng | None = None) -> Batch:
        """Float32 [N,C,H,W] in [-1, 1] and labels; with ``rng``, uniform within each level (dequantisation)."""
        _, h, w, c = raw.pixels.shape
        require(
            (c, h, w) == self.shape,
            f"the images are {h}x{w} with {c} channel(s), but the modality has shape {self.shape or '()'}; "
            + ("resize them to that shape" if self.shape else "fit it first: modality.fit(raw)"),
        )
        return Batch(self.scaled(self.steps(raw.pixels), rng), cond=self.condition_of(raw))

    def scaled(self, steps: Tensor, rng: Rng | None = None) -> Tensor:
        """Float32 in [-1, 1] for levels of pixels, uint8 of any shape and device."""
        x = steps.float()
        if rng is None:
            x.add_(0.5)
        else:
            edge = 2.0**-14  # rounding to float32 must not reach the next level
            x.add_(rng.fork("dequantise").fill(x).mul_(1 - 2 * edge).add_(edge))
        return x.mul_(2 / self.levels).sub_(1)

    def steps(self, pixels: Array) -> Tensor:
        """The levels of pixels [N,H,W,C] as uint8 [N,C,H,W]."""
        return torch.from_numpy(np.require(self._steps(pixels).transpose(0, 3, 1, 2), requirements=["C", "W"]))

    def subset(self, raw: Images, most: int = ENCODED) -> Images:
        """A random subset with at most ``most`` pixels, fixed for a number of images; all of them if they are fewer."""
        count = max(1, most // (raw.pixels[0].size + self.described_numbers))
        if len(raw) <= count:
            return raw
        rows = Rng(0).fork("subset").permutation(len(raw))[:count].sort().values.numpy()
        columns = None if raw.columns is None else raw.columns.rows(rows)
        return Images(raw.pixels[rows], None if raw.labels is None else raw.labels[rows], raw.names, columns=columns)

    @property
    def described_numbers(self) -> int:
        """How many numbers the conditions of one image are, beside its label."""
        return 0 if self.described is None else self.described.numbers

    def check_unchanging(self, raw: Images) -> None:
        require(
            not raw.augment and not raw.buckets,
            "the images are augmented or of several sizes, but a coupling or a second data set pairs each of them "
            "before training; leave out augment, flip and buckets, or use a coupling within the batch",
        )

    def microbatches(self, raw: Images, rng: Rng) -> Feed | None:
        """A feed that encodes every microbatch by itself: for many, augmented or described images, or buckets."""
        if raw.buckets:
            parts = (raw, *raw.buckets)
            return BucketFeed(tuple(ImageFeed(self, part, rng.fork("bucket", i)) for i, part in enumerate(parts)), rng)
        several = raw.augment or self.described is not None
        return ImageFeed(self, raw, rng) if several or raw.pixels.size > ENCODED else None

    def decode(self, x: Tensor) -> Images:
        """Images from float tensors [N,C,H,W], clamped to [-1, 1]."""
        require(
            x.shape[1:] == self.shape and bool(x.isfinite().all()),
            f"a tensor of shape {tuple(x.shape)} cannot be decoded to images of shape {self.shape or '()'}, or is not "
            "finite; give finite [N,C,H,W] of that shape, and fit the modality first",
        )
        steps = ((x.detach().cpu().float() + 1) * (self.levels / 2)).floor_().clamp_(0, self.levels - 1)
        pixels = (steps * (255 / (self.levels - 1))).round_().to(torch.uint8)
        return Images(pixels.permute(0, 2, 3, 1).contiguous().numpy())

    def condition(self, value: Any, n: int) -> Cond:
        """Labels [n] of {"label": 3}, 3, a class name, one of these per sample, or None (the null label).

        For described images the other names are those of their conditions; bare text is a caption.
        """
        if self.described is None:
            return label_condition(value, n, self.classes, self.names)
        given, rest = self.described.parted(value)
        unknown = set(rest) - {"label"} if isinstance(rest, Mapping) else ()
        for name in unknown:
            raise BeelineError(f"these data have no condition {name!r}; {nearest(name, self.conditions)}")
        label = label_condition(rest, n, self.classes, self.names) or {}
        assert isinstance(label, Mapping)
        return {**label, **self.described.given(given, n)}

    def with_condition(self, raw: Images, value: Any) -> Images:
        if self.described is not None:
            value = self.described.parted(value)[1]
        labels = labels_of(value, len(raw), self.classes, self.names)
        return Images(raw.pixels, labels, () if labels is None or numeric(self.names) else self.names)

    def preview(self, raw: Images, columns: int | None = None, most: int = 64) -> bytes:
        """A PNG grid of the first ``most`` images; small ones are enlarged."""
        from PIL import Image as Picture

        shown = raw.pixels[:most]
        n, h, w, c = shown.shape
        shown = shown if c == 3 else shown[..., :1]
        wide = columns or math.ceil(math.sqrt(n))
        tall = math.ceil(n / wide)
        canvas = np.full((tall * (h + 1) + 1, wide * (w + 1) + 1, shown.shape[3]), 255, np.uint8)
        for i, tile in enumerate(shown):
            y, x = (i // wide) * (h + 1) + 1, (i % wide) * (w + 1) + 1
            canvas[y : y + h, x : x + w] = tile
        zoom = max(1, 40 // max(h, w))
        picture = Picture.fromarray(canvas if canvas.shape[2] == 3 else canvas[..., 0])
        picture = picture.resize((picture.width * zoom, picture.height * zoom), Picture.Resampling.NEAREST)
        out = io.BytesIO()
        picture.save(out, "PNG")
        return out.getvalue()

    def save(self, raw: Images, path: Path) -> None:
        """Write a grid (.png), arrays (.npy, or .npz with images, labels and names), or a directory of .png files."""
        from PIL import Image as Picture

        if path.suffix == "":
            for i, tile in enumerate(raw.pixels):
                with replacing(path / f"{i:05d}.png") as file:
                    Picture.fromarray(tile if tile.shape[2] == 3 else tile[..., 0]).save(file, "PNG")
            return
        with replacing(path) as file, open(file, "wb") as out:
            if path.suffix == ".npy":
                np.save(out, raw.pixels)
            elif path.suffix == ".npz":
                labels: Any = stored_labels(raw.labels, raw.names)
                np.savez_compressed(out, images=raw.pixels, **labels)
            else:
                out.write(self.preview(raw, most=len(raw)))

    def _steps(self, pixels: Array) -> Array:
        """The level of every pixel."""
        if self.levels == 256:
            return pixels
        steps = np.rint(np.arange(256) * ((self.levels - 1) / 255)).astype(np.uint8)
        back = np.rint(np.arange(self.levels) * (255 / (self.levels - 1))).astype(np.uint8)
        wrong = back[steps] != np.arange(256)
        bad = wrong[pixels]
        if bad.any():
            row, y, x, c = (int(i) for i in np.argwhere(bad)[0])
            raise BeelineError(
                f"image {row} has the value {pixels[row, y, x, c]} at row {y}, column {x}, which is none of the "
                f"{self.levels} levels of this modality; use levels=256, or quantise the images"
            )
        made: Array = steps[pixels]
        return made

    def condition_of(self, raw: Images) -> Cond:
        """The labels and encoded columns of images as a condition; None without any."""
        label = self.label_condition_of(raw)
        if self.described is None or raw.columns is None:  # generated images have none
            return label
        return {**(label or {}), **self.described.encode(raw.columns, len(raw))}

    def label_condition_of(self, raw: Images) -> dict[str, Tensor] | None:
        """The labels of images as a condition; None without labels."""
        if not self.classes or raw.labels is None:  # generated images have no labels
            return None
        return {"label": torch.from_numpy(class_indices(raw.labels, len(raw), raw.names, self.classes, self.names))}
