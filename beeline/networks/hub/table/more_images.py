"""Further families that make images from text."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from beeline.networks.hub import scheduling as grids
from beeline.networks.hub.calls import more_images as image
from beeline.networks.hub.family import Family, Settings
from beeline.networks.hub.imports import diffusers
from beeline.networks.hub.prompts import ALONE, MASKED, EmptyIsZero, Prompt
from beeline.networks.hub.statistics import ChannelMeanStd, PatchedBatchNorm, ScaleShift
from beeline.networks.hub.table.images import PER_TOKEN


def words_before_the_picture(pipeline: Any) -> Settings:
    return {"words": pipeline.tokenizer_max_length}


def distilled_shift(pipeline: Any) -> Settings:
    """One shift for every number of tokens, if the checkpoint is distilled."""
    if not pipeline.config.is_distilled:
        return {}
    return {"base_shift": 1.15, "max_shift": 1.15, "_use_default_values": []}  # listed names would lose their values


def plain_pictures(pipeline: Any) -> Any:
    """A processor of images for pipelines whose own one makes several of each."""
    return diffusers("images").image_processor.VaeImageProcessor(vae_scale_factor=2 * pipeline.vae_scale_factor)


def pixels_without_patches(pipeline: Any) -> int:
    """Pixels per latent of pipelines whose factor counts 2 x 2 patches already."""
    return int(pipeline.vae_scale_factor) // 2


def visual_channels(pipeline: Any) -> int:
    return int(pipeline.transformer.config.in_visual_dim)


MORE_IMAGES: tuple[Family, ...] = (
    Family(
        "ovis-image",
        ("OvisImageTransformer2DModel",),
        ("OvisImagePipeline",),
        image.ovis,
        ScaleShift(),
        grids.grid_to_last_step,
        Prompt({"text": 0}, ALONE),
        scale=1.0,
        packed=2,
    ),
    Family(
        "longcat-image",
        ("LongCatImageTransformer2DModel",),
        ("LongCatImagePipeline",),
        image.longcat,
        ScaleShift(),
        grids.grid_to_last_step,
        Prompt({"text": 0}, {}),
        scale=1.0,
        rule={**PER_TOKEN, "most": 1.0},
        packed=2,
        settings=words_before_the_picture,
    ),
    Family(
        "bria",
        ("BriaTransformer2DModel",),
        ("BriaPipeline",),
        image.bria,
        ScaleShift(),
        grids.trained_grid,
        EmptyIsZero(Prompt({"text": 0}, ALONE)),
        packed=2,
        spatial=pixels_without_patches,
    ),
    Family(
        "nucleus-image",
        ("NucleusMoEImageTransformer2DModel",),
        ("NucleusMoEImagePipeline",),
        image.nucleus,
        ChannelMeanStd(),
        grids.grid_to_last_step,
        Prompt(MASKED, {}),
        scale=1.0,
        sign=1.0,
        rule=PER_TOKEN,
        packed=2,
        frame_axis=True,
    ),
    Family(
        "krea2",
        ("Krea2Transformer2DModel",),
        ("Krea2Pipeline",),
        image.krea2,
        ChannelMeanStd(),
        grids.grid_to_last_step,
        Prompt(MASKED, {}),
        schedule_config=distilled_shift,
        scale=1.0,
        scale_offset=1.0,
        packed=2,
        frame_axis=True,
        last="final_layer.linear",
    ),
    Family(
        "ernie-image",
        ("ErnieImageTransformer2DModel",),
        ("ErnieImagePipeline",),
        image.ernie,
        PatchedBatchNorm(eps=1e-5),
        grids.grid_to_last_step,
        Prompt({"text": 0}, {}),
        patch=1,
        compressed=2,
        spatial=pixels_without_patches,
        last="final_linear",
    ),
    Family(
        "kandinsky5",
        ("Kandinsky5Transformer3DModel",),
        ("Kandinsky5T2IPipeline",),
        image.kandinsky5,
        ScaleShift(shifted=False),
        grids.own_grid,
        Prompt({"text": 0, "pooled": 1}, {}),
        spatial=attrgetter("vae_scale_factor_spatial"),
        channels=visual_channels,
        last="out_layer.out_layer",
    ),
    Family(
        "bria-fibo",
        ("BriaFiboTransformer2DModel",),
        ("BriaFiboPipeline",),
        image.fibo,
        ChannelMeanStd(),
        grids.grid_to_last_step,
        Prompt({"text": 0, "mask": 3, "layers": 5}, {"guidance_scale": 1.0}, layers="layers"),
        patch=1,
        frame_axis=True,
    ),
    Family(
        "bria-fibo2",
        ("BriaFibo2Transformer2DModel",),
        ("BriaFibo2Pipeline",),
        image.fibo2,
        PatchedBatchNorm(patched=False),
        grids.grid_to_last_step,
        Prompt(MASKED, {}),
        scale=1.0,
        pictures=plain_pictures,
        last="final_layer.linear",
    ),
)
