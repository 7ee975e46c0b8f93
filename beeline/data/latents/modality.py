"""The modality of images as latents of an autoencoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.data import ENCODED, Autoencoder
from beeline.core.protocols.training import Feed
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, map_cond
from beeline.data.described.descriptions import Columns, Stored
from beeline.data.images import Image, Images
from beeline.data.labels import Array
from beeline.data.modality import ModalityBase
from beeline.data.pictures.feeds import in_float32
from beeline.training.compare import fingerprint
from beeline.training.feed.microbatches import FeedBase, epoch_rows

AT_ONCE = 16  # images that pass through an autoencoder at once


@dataclass(frozen=True, eq=False)
class LatentImages:
    """Latents of images with their labels; the parts may be memory-mapped."""

    parts: tuple[Tensor, ...]  # [n_i,C,H,W] each
    labels: Array | None = None  # int64 [N]
    names: tuple[str, ...] = ()  # of the classes
    digest: str = ""  # a hash of the latents, if one is known
    columns: Columns | None = None  # captions and other values of every image

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def take(self, rows: Tensor) -> Tensor:
        """The latents of some rows, [len(rows),C,H,W]."""
        starts = torch.tensor([0, *np.cumsum([len(part) for part in self.parts]).tolist()])
        which = torch.bucketize(rows, starts[1:], right=True)
        made = self.parts[0].new_empty(len(rows), *self.parts[0].shape[1:])
        for k in which.unique().tolist():
            here = which == k
            made[here] = self.parts[k][rows[here] - starts[k]]
        return made

    def rows(self, index: Any) -> LatentImages:
        """The latents at ``index``, an integer array or a slice."""
        rows = torch.arange(len(self))[index]
        labels = None if self.labels is None else self.labels[index]
        columns = None if self.columns is None else self.columns.rows(index)
        return LatentImages((self.take(rows),), labels, self.names, columns=columns)


@dataclass(frozen=True)
class LatentImage(ModalityBase):
    """Images as latents of an autoencoder, normalised by channel.

    x = (z - mean) / std,  z = encode(image);  decode: image = decode(std x + mean)
    Assumes that the autoencoder can be loaded where samples are decoded; other weights than those that encoded the
    data are refused.
    Source: Rombach et al. 2022 (arXiv 2112.10752), latent diffusion.

    >>> from beeline.data.latents.autoencoders import PatchChannels
    >>> raw = Images(np.zeros((4, 8, 8, 3), np.uint8))
    >>> LatentImage(PatchChannels(2), Image()).fit(raw).shape
    (12, 4, 4)
    """

    autoencoder: Autoencoder
    image: Image = field(default_factory=Image)  # of the images
    shape: tuple[int, ...] = ()  # (C,H,W) of latents, set by ``fit``
    mean: tuple[float, ...] = ()  # of every channel, set by ``fit``
    std: tuple[float, ...] = ()  # of every channel, set by ``fit``
    weights: str = ""  # hash of the weights of the autoencoder, set by ``fit``
    preview_type = "image/png"
    formats = Image.formats

    def __post_init__(self) -> None:
        for name in ("shape", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        return self.image.conditions

    def fit(self, raw: LatentImages | Images) -> LatentImage:
        """A new modality with mean and standard deviation of every channel, and the hash of the autoencoder."""
        image, described = self.image, self.image.described
        if isinstance(raw, Images):
            image = image.fit(raw)
        elif described is not None:
            image = replace(image, described=described.fit())
        fitted = replace(self, image=image, weights=self.autoencoder.digest())
        some = self.subset(raw)
        z = fitted.latents(some).float() if isinstance(some, Images) else some.take(torch.arange(len(some))).float()
        std, mean = torch.std_mean(z.double(), (0, 2, 3))
        require(
            bool(z.isfinite().all()),
            "the autoencoder gave latents that are not finite; try other images, or another autoencoder",
        )
        return replace(
            fitted, shape=tuple(z.shape[1:]), mean=tuple(mean.tolist()), std=tuple(std.clamp(min=1e-3).tolist())
        )

    def encode(self, raw: LatentImages | Images, rng: Rng | None = None) -> Batch:
        """Normalised latents [N,*S] of latents or images, and labels."""
        z = self.latents(raw) if isinstance(raw, Images) else raw.take(torch.arange(len(raw)))
        return Batch(self.normalised(z), cond=self.condition_of(raw))

    def decode(self, x: Tensor) -> Images:
        """Images from normalised latents [N,*S]."""
        require(
            x.shape[1:] == self.shape,
            f"a tensor of shape {tuple(x.shape)} cannot be decoded to images, because latents have shape "
            f"{self.shape or '()'}; give [N,C,H,W] of that shape, and fit the modality first",
        )
        with torch.no_grad():
            return self.image.decode(torch.cat([self.pixels(part).cpu() for part in x.split(AT_ONCE)]))

    def pixels(self, x: Tensor) -> Tensor:
        """Images [N,C,H,W], about in [-1, 1], of normalised latents [N,*S]; differentiable."""
        self._check_weights()
        mean, std = self._statistics(x)
        images = self.autoencoder.decode(x.float() * std + mean)
        if self.image.shape[0] == 1 and images.shape[1] > 1:  # a grayscale image was encoded as RGB
            images = images.mean(1, keepdim=True)
        return images

    def latents(self, raw: Images, device: torch.device | None = None) -> Tensor:
        """The latents of images, not normalised, [N,C,H,W] on the CPU."""
        starts = range(0, len(raw), AT_ONCE)
        plain = replace(self.image, described=None)
        parts = (plain.encode(raw.rows(slice(i, i + AT_ONCE))).x1 for i in starts)
        return torch.cat([self.autoencoder.encode(x.to(device or "cpu")).cpu() for x in parts])

    def normalised(self, z: Tensor) -> Tensor:
        mean, std = self._statistics(z)
        return (z.float() - mean) / std

    def condition_of(self, raw: LatentImages | Images) -> Cond:
        """The labels and encoded columns of images or of their latents as a condition; None without any."""
        label, described = self.label_condition_of(raw), self.image.described
        if described is None or raw.columns is None:
            return label
        return {**(label or {}), **described.encode(raw.columns, len(raw))}

    def label_condition_of(self, raw: LatentImages | Images) -> dict[str, Tensor] | None:
        """The labels of images or of their latents as a condition; None without labels."""
        if isinstance(raw, Images):
            return self.image.label_condition_of(raw)
        if not self.image.classes or raw.labels is None:
            return None
        return {"label": torch.from_numpy(raw.labels)}

    def raw(self, values: Any, labels: Any = None) -> Images:
        return self.image.raw(values, labels)

    def condition(self, value: Any, n: int) -> Cond:
        return self.image.condition(value, n)

    def with_condition(self, raw: Images, value: Any) -> Images:
        return self.image.with_condition(raw, value)

    def preview(self, raw: LatentImages | Images, columns: int | None = None, most: int = 64) -> bytes:
        """A PNG grid of the first ``most`` images."""
        shown = raw
        if isinstance(raw, LatentImages):
            shown = self.decode(self.encode(raw.rows(slice(most))).x1)
        assert isinstance(shown, Images)
        return self.image.preview(shown, columns, most)

    def save(self, raw: Images, path: Path) -> None:
        self.image.save(raw, path)

    def subset(self, raw: Any, most: int = ENCODED) -> Any:
        """A random subset with at most ``most`` numbers, fixed for a number of latents; all of them if fewer."""
        if isinstance(raw, Images):
            return self.image.subset(raw, most)
        count = max(1, most // (raw.parts[0][0].numel() + self.image.described_numbers))
        if len(raw) <= count:
            return raw
        return raw.rows(Rng(0).fork("subset").permutation(len(raw))[:count].sort().values.numpy())

    def microbatches(self, raw: Any, rng: Rng) -> Feed | None:
        """A feed that reads every microbatch from the disk, for many latents."""
        few = isinstance(raw, Images) or len(raw) * raw.parts[0][0].numel() <= ENCODED
        if isinstance(raw, Images) or (few and self.image.described is None):
            return None
        return LatentFeed(self, raw, rng)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(part, device=like.device)[:, None, None] for part in (self.mean, self.std))
        return mean, std

    def _check_weights(self) -> None:
        """Refuse an autoencoder with other weights than that of the training data."""
        found = self._digest
        require(
            found == self.weights,
            f"{self.autoencoder} has other weights ({found[:8]}) than the autoencoder of the training data "
            f"({self.weights[:8]}), so samples would be decoded wrongly; restore its files, or give the revision",
        )

    @functools.cached_property
    def _digest(self) -> str:
        return self.autoencoder.digest()


@dataclass(frozen=True, eq=False)
class LatentFeed(FeedBase):
    """Latents as training data, read by microbatch and normalised on the device of the networks.

    >>> from beeline.data.latents.autoencoders import PatchChannels
    >>> raw = LatentImages((torch.zeros(4, 1, 2, 2, dtype=torch.float16),))
    >>> modality = LatentImage(PatchChannels(1), shape=(1, 2, 2), mean=(0.0,), std=(1.0,))
    >>> LatentFeed(modality, raw, Rng(0)).microbatch(0, 2).x1.dtype
    torch.float32
    """

    modality: LatentImage
    raw: LatentImages
    rng: Rng

    def __len__(self) -> int:
        return len(self.raw)

    def rows(self, number: int, size: int) -> Tensor:
        return epoch_rows(self.rng, len(self), number, size)

    def load(self, number: int, size: int) -> Batch:
        rows = self.rows(number, size)
        label = map_cond(lambda leaf: leaf[rows], self._labels)
        cond = label if self._stored is None else {**(label or {}), **self._stored(rows)}  # type: ignore[dict-item]
        return Batch(self.raw.take(rows), cond=cond)

    def encode(self, batch: Batch) -> Batch:
        return replace(batch, x1=self.modality.normalised(batch.x1), cond=in_float32(batch.cond))

    def microbatch(self, number: int, size: int) -> Batch:
        return self.encode(self.load(number, size))

    @functools.cached_property
    def _labels(self) -> Cond:
        return self.modality.label_condition_of(self.raw)

    @functools.cached_property
    def _stored(self) -> Stored | None:
        described, columns = self.modality.image.described, self.raw.columns
        return None if described is None or columns is None else described.stored(columns)

    @property
    def identity(self) -> Mapping[str, Any]:
        labels: dict[str, Any] = {}
        if self.raw.labels is not None:
            labels["labels"] = fingerprint(torch.from_numpy(self.raw.labels))
        described, columns = self.modality.image.described, self.raw.columns
        if described is not None and columns is not None:
            labels |= {"columns": columns.digest, "encoders": dict(described.weights)}
        return {"latents": self.raw.digest or fingerprint(torch.cat(list(self.raw.parts)))} | labels
