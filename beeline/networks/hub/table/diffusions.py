"""Families of diffusion networks, which become velocity fields on the path ``Rotation``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch

from beeline.core.errors import BeelineError, nearest
from beeline.networks.hub import scheduling as grids
from beeline.networks.hub.calls import diffusions as diffusion
from beeline.networks.hub.family import Family
from beeline.networks.hub.imports import diffusers
from beeline.networks.hub.prompts import ALONE, MASKED, EmptyIsZero, Prompt
from beeline.networks.hub.statistics import ScaleShift
from beeline.networks.hub.table.images import pixels_per_latent


@dataclass(frozen=True)
class Labels:
    """Classes by their number or a name that the pipeline knows; no text is the null class."""

    outputs: Mapping[str, int]

    def with_length(self, pipeline: Any, length: int) -> Labels:
        raise BeelineError(f"max_sequence_length={length} was given to a model of classes; leave it out")

    def __call__(self, pipeline: Any, texts: list[str], images: Mapping[str, Any] | None = None) -> dict[str, Any]:
        count = int(pipeline.transformer.config.num_embeds_ada_norm)
        names = dict(pipeline.labels or {})
        known = {str(n): n for n in range(count)} | names | {"": count}
        for text in texts:
            if text not in known:
                hint = f"{nearest(text, names)}, or " if names else ""
                raise BeelineError(f"{text!r} is no class of the model; {hint}give a number from 0 to {count - 1}")
        return {name: torch.tensor([known[text] for text in texts]) for name in self.outputs}


def block_factor(pipeline: Any) -> int:
    """Pixels per latent, from the blocks of the autoencoder."""
    return int(2 ** (len(pipeline.vae.config.block_out_channels) - 1))


def own_processor(pipeline: Any) -> Any:
    made: Any = diffusers("a processor of images").image_processor
    return made.VaeImageProcessor(vae_scale_factor=block_factor(pipeline))


def trained_side(pipeline: Any) -> int:
    return int(pipeline.transformer.config.sample_size) * block_factor(pipeline)


def trained_unet_side(pipeline: Any) -> int:
    return int(pipeline.unet.config.sample_size) * block_factor(pipeline)


def unet_channels(pipeline: Any) -> int:
    return int(pipeline.unet.config.in_channels)


def zeros_for_empty(pipeline: Any) -> bool:
    return bool(pipeline.config.force_zeros_for_empty_prompt)


UNCODED = {**ALONE, "num_images_per_prompt": 1}

DIFFUSIONS: tuple[Family, ...] = (
    Family(
        "dit",
        ("DiTTransformer2DModel",),
        ("DiTPipeline",),
        diffusion.labelled,
        ScaleShift(),
        grids.own_grid,
        Labels({"label": 0}),
        diffusion=True,
        spatial=block_factor,
        side=trained_side,
        pictures=own_processor,
    ),
    Family(
        "pixart",
        ("PixArtTransformer2DModel",),
        ("PixArtSigmaPipeline", "PixArtAlphaPipeline"),
        diffusion.pixart,
        ScaleShift(),
        grids.own_grid,
        Prompt(MASKED, ALONE),
        diffusion=True,
        settings=pixels_per_latent,
        side=trained_side,
    ),
    Family(
        "stable-diffusion",
        ("UNet2DConditionModel",),
        ("StableDiffusionPipeline",),
        diffusion.unet,
        ScaleShift(),
        grids.own_grid,
        Prompt({"text": 0}, UNCODED),
        diffusion=True,
        network=attrgetter("unet"),
        channels=unet_channels,
        patch=1,
        side=trained_unet_side,
    ),
    Family(
        "sdxl",
        ("UNet2DConditionModel",),
        ("StableDiffusionXLPipeline",),
        diffusion.unet_xl,
        ScaleShift(),
        grids.own_grid,
        EmptyIsZero(Prompt({"text": 0, "pooled": 2}, {**UNCODED, "prompt_2": None}), zeros_for_empty),
        diffusion=True,
        network=attrgetter("unet"),
        channels=unet_channels,
        settings=pixels_per_latent,
        patch=1,
    ),
)
