"""Frozen encoders as feature spaces of metrics."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any, ClassVar

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.core.protocols.data import FullEncoder
from beeline.core.ranges import Count, dataclass
from beeline.core.types import Cond
from beeline.data.images import Images


@dataclass(frozen=True)
class Encoded:
    """The pooled features of a frozen encoder, which takes encoded data.

    f(x) = encoder.pooled(x), in batches
    Assumes an encoder for data of this shape, such as a trained flow for the same data.
    Source: Stein et al. 2023 (arXiv 2306.04675), who compare encoders for evaluation.

    >>> from beeline.objectives.losses.encoders import RandomFeatures
    >>> Encoded(RandomFeatures(8))(torch.zeros(3, 2)).shape
    torch.Size([3, 8])
    """

    encoder: FullEncoder
    batch: Count = 64  # batch size
    device: Device = AUTO  # where the encoder runs
    learned: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.encoder.name

    @functools.cached_property
    def hash(self) -> str:
        return self.encoder.hash

    def fit(self, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> Encoded:
        return self

    def inputs(self, x: Tensor) -> Tensor:
        """What the encoder is given for encoded data."""
        return x.float()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Features [N,d] in float64 on the CPU; a bar on a terminal shows how far they are."""
        from rich.console import Console
        from rich.progress import track

        where = resolve_device(self.device)
        parts = torch.split(x.detach(), self.batch)
        quiet = len(parts) < 4 or not sys.stderr.isatty()
        shown = track(
            parts, f"{self.name}, {len(x):,} data", console=Console(stderr=True), transient=True, disable=quiet
        )
        made = [self.encoder.pooled(self.inputs(part).to(where)).cpu() for part in shown]
        features = torch.cat(made).flatten(1).double()
        require(
            bool(features.isfinite().all()),
            f"the features of {self.name} contain NaN or infinite values, so that no distance is defined; check its "
            "weights",
        )
        return features


@dataclass(frozen=True)
class EncodedPictures(Encoded):
    """The pooled features of an encoder of pictures, which is given decoded pictures in [-1, 1].

    f(x) = encoder.pooled(2 pixels(decode(x)) / 255 - 1)
    Assumes a modality that decodes to images of 8 bits, so that the encoder has the pixels that a user receives.
    Source: Heusel et al. 2017 (arXiv 1706.08500).

    >>> from beeline.data.images import Image
    >>> from beeline.objectives.losses.encoders import RandomFeatures
    >>> EncodedPictures(RandomFeatures(8), modality=Image((1, 4, 4)))(torch.zeros(3, 1, 4, 4)).shape
    torch.Size([3, 8])
    """

    modality: Any = None  # that encoded the data

    def inputs(self, x: Tensor) -> Tensor:
        raw = None if self.modality is None else self.modality.decode(x)
        require(
            isinstance(raw, Images),
            f"{self.name} takes pictures, but the data are those of {type(self.modality).__name__}; use features for "
            "data of any kind: 'classifier' for data with labels, or the directory of a trained bundle",
        )
        assert isinstance(raw, Images)
        pixels = torch.from_numpy(raw.pixels).permute(0, 3, 1, 2)
        return pixels.float() / 127.5 - 1
