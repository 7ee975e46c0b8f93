"""Hints of the pictures of latents, and the conditions of flows with controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.data.described.descriptions import Descriptions
from beeline.data.described.hint_pictures import CONTROL, HintPictures
from beeline.data.images import Image
from beeline.data.latents.modality import AT_ONCE, LatentImage


@dataclass(frozen=True)
class OfPictures:
    """A hint of the pictures of latents, with the sides of the latents.

    hint = unshuffle(hint(decode(x)), f),  the pixels of f x f patches as channels;  f = side of pictures / of latents

    >>> from beeline.data.latents.autoencoders import PatchChannels
    >>> from beeline.networks.controls.hints import Edges
    >>> latents = LatentImage(PatchChannels(2), Image(shape=(1, 8, 8)), (4, 4, 4), (0.0,) * 4, (1.0,) * 4)
    >>> OfPictures(Edges(), latents)(torch.zeros(1, 4, 4, 4)).shape
    torch.Size([1, 4, 4, 4])
    """

    hint: Callable[[Tensor], Tensor]  # of pictures
    modality: LatentImage

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            made = [self.hint(self.modality.pixels(part).clamp(-1, 1)) for part in x.split(AT_ONCE)]
        return F.pixel_unshuffle(torch.cat(made).to(x), factor_of(self.modality))


def factor_of(modality: LatentImage) -> int:
    """The sides of pictures over those of their latents; ValueError where these are no whole number."""
    pictures, latents = modality.image.shape[1:], modality.shape[1:]
    factor = pictures[0] // max(1, latents[0]) if pictures and latents else 0
    require(
        factor >= 1 and tuple(factor * n for n in latents) == tuple(pictures),
        f"a control was to be trained on latents {tuple(latents)} of pictures {tuple(pictures)}; their sides are "
        "divided by one whole number: use another autoencoder, or train the control in Python with a hint of your own",
    )
    return factor


def with_hints(modality: Any, channels: Mapping[str, int]) -> Any:
    """A modality of images whose data also have hints with so many channels as a condition; itself without any.

    Hints of latents are pictures of the size of the images.
    """
    if not channels:
        return modality
    if isinstance(modality, LatentImage):
        return replace(modality, image=_described(modality.image, channels, factor_of(modality)))
    require(
        isinstance(modality, Image),
        f"a control was to be trained on data of {type(modality).__name__}, and hints are made for pixels of images: "
        "use a flow on images, or train the control in Python (networks.controls)",
    )
    return _described(modality, channels, 1)


def _described(image: Image, channels: Mapping[str, int], factor: int) -> Image:
    own = {} if image.described is None else image.described.encoders
    weights = {} if image.described is None else image.described.weights
    pixels = {name: n // factor**2 for name, n in channels.items()}
    encoder = HintPictures(image.shape[1], image.shape[2], pixels, factor)
    return replace(image, described=Descriptions({**own, CONTROL: encoder}, dict(weights)))
