"""Images that are part of a condition, such as the one to edit: brought to the size of the samples and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError
from beeline.networks.hub.family import Family, latents_of


def opened(image: Any) -> Any:
    """An image as it was given, or the one in the file of a path; raises ValueError if it cannot be read."""
    if not isinstance(image, str | Path):
        return image
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise BeelineError(
            f"{image} cannot be read as an image ({type(error).__name__}); give the path of a picture, or a picture"
        ) from None


def prepared(processor: Any, image: Any, sides: tuple[int, int]) -> Tensor:
    """Pictures in [0, 1] or of PIL, resized, as the processor's pixels [N,C,H,W] of the height and width ``sides``."""
    try:
        made = processor.preprocess(opened(image), height=sides[0], width=sides[1])
    except (TypeError, ValueError, AttributeError) as error:
        raise BeelineError(
            f"an image of the condition is {type(image).__name__}, which the pipeline's processor refuses "
            f"({str(error)[:120]}); give a path, a picture of PIL, or a tensor [N,3,H,W] in [0, 1]"
        ) from None
    pixels: Tensor = made.float()
    return pixels


@dataclass(frozen=True)
class ImageLatents:
    """The latents of one image, of the size of the samples.

    leaf = normalised mean of the autoencoder's posterior, [N,C,h,w]
    """

    name: str  # of the image in the condition
    leaf: str  # of the condition that the network takes
    optional: bool = False  # whether the network makes samples without it too

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def leaves(self) -> tuple[str, ...]:
        return (self.leaf,)

    @property
    def required(self) -> tuple[str, ...]:
        return () if self.optional else (self.leaf,)

    def __call__(
        self, pipeline: Any, family: Family, images: Mapping[str, Any], size: tuple[int, ...]
    ) -> dict[str, Tensor]:
        sides = family.pixels(pipeline, size)
        pixels = prepared(family.processor(pipeline), images[self.name], sides)
        return {self.leaf: latents_of(pipeline.vae, family, pixels)}


@dataclass(frozen=True)
class MaskedImage:
    """The latents of an image whose masked part is grey, and the mask with the pixels of a latent as channels.

    channels = [latents of image (1 - mask), mask],  with mask 1 where the image is to be filled
    """

    names = ("image", "mask_image")
    leaves = required = ("channels",)

    def __call__(
        self, pipeline: Any, family: Family, images: Mapping[str, Any], size: tuple[int, ...]
    ) -> dict[str, Tensor]:
        sides = family.pixels(pipeline, size)
        pixels = prepared(pipeline.image_processor, images["image"], sides)
        mask = prepared(pipeline.mask_processor, images["mask_image"], sides)
        latents = latents_of(pipeline.vae, family, pixels * (1 - mask))
        blocks = torch.nn.functional.pixel_unshuffle(mask[:, :1], sides[0] // size[-2]).to(latents)
        return {"channels": torch.cat([latents, blocks.expand(len(latents), -1, -1, -1)], 1)}


@dataclass(frozen=True)
class FirstFrame:
    """The first frame of a video (Wan).

    known = [mask, latents of the video whose other frames are grey], mask 1 in the first frame; or only the latents of
    the first frame, for networks with a time for each token.  clip = features of the image, for networks that take them
    """

    names = ("image",)
    leaves = ("known", "clip")
    required = ("known",)

    def __call__(
        self, pipeline: Any, family: Family, images: Mapping[str, Any], size: tuple[int, ...]
    ) -> dict[str, Tensor]:
        pixels = prepared(pipeline.video_processor, images["image"], family.pixels(pipeline, size))
        features = pipeline.transformer.config.image_dim is not None
        made = {"clip": pipeline.encode_image(opened(images["image"]), pipeline._execution_device)} if features else {}
        if pipeline.config.get("expand_timesteps", False):
            return made | {"known": latents_of(pipeline.vae, family, pixels)}
        ratio = getattr(pipeline, family.temporal)
        video = torch.nn.functional.pad(pixels[:, :, None], (0, 0, 0, 0, 0, (size[1] - 1) * ratio))
        latents = latents_of(pipeline.vae, family, video)
        mask = latents.new_zeros(len(latents), ratio, *latents.shape[2:])
        mask[:, :, 0] = 1
        return made | {"known": torch.cat([mask, latents], 1)}
