"""Families that make images from text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from beeline.networks.hub import scheduling as grids
from beeline.networks.hub.calls import images as image
from beeline.networks.hub.family import Family, Settings, time
from beeline.networks.hub.prompts import ALONE, MASKED, Prompt
from beeline.networks.hub.statistics import ChannelMeanStd, PatchedBatchNorm, ScaleShift

PER_TOKEN = {"is": "rules.NormRestored", "norm": {"is": "norms.PerToken", "patch": 2}}
PER_ROW = {"is": "rules.NormRestored", "norm": {"is": "norms.PerRow"}}


def pixels_per_latent(pipeline: Any) -> Settings:
    return {"pixels_per_latent": pipeline.vae_scale_factor}


def uses_meanflow(net: Any) -> bool:
    return bool(net.config.use_meanflow)


def unshifted(t: Tensor, x: Tensor) -> Tensor:
    """The whole-number time before the shift, which CogView4 takes while the solver uses the shifted one."""
    mu = 0.25 + 0.75 * math.sqrt((x.shape[2] // 2) * (x.shape[3] // 2) / 256)
    return torch.round(1000 * (1 - t) / (mu - (mu - 1) * (1 - t))) / 1000


FLUX = Family(
    "flux",
    ("FluxTransformer2DModel",),
    ("FluxPipeline",),
    image.flux,
    ScaleShift(),
    grids.grid_to_last_step,
    Prompt({"text": 0, "pooled": 1}, {"prompt_2": None}),
    scale=1.0,
    scale_argument="true_cfg_scale",
    embedded=1.0,
    packed=2,
    tokens_of=image.flux_grid,
)

QWEN_IMAGE = Family(
    "qwen-image",
    ("QwenImageTransformer2DModel",),
    ("QwenImagePipeline",),
    image.qwen,
    ChannelMeanStd(),
    grids.grid_to_last_step,
    Prompt(MASKED, {}),
    scale=1.0,
    frame_axis=True,
    rule=PER_TOKEN,
    scale_argument="true_cfg_scale",
    packed=2,
    tokens_of=image.flux_grid,
)

IMAGES: tuple[Family, ...] = (
    Family(
        "sd3",
        ("SD3Transformer2DModel",),
        ("StableDiffusion3Pipeline",),
        image.sd3,
        ScaleShift(),
        grids.own_grid,
        Prompt({"text": 0, "pooled": 2}, {"prompt_2": None, "prompt_3": None, **ALONE}),
        patch=1,
        tokens_of=image.sd3_grid,
    ),
    FLUX,
    Family(
        "flux2",
        ("Flux2Transformer2DModel",),
        ("Flux2Pipeline",),
        image.flux2,
        PatchedBatchNorm(),
        grids.flux2_grid,
        Prompt({"text": 0}, {}),
        scale=1.0,
        patch=1,
        rule=None,
        embedded=1.0,
        compressed=2,
        tokens_of=image.flux2_grid,
    ),
    Family(
        "flux2-klein",
        ("Flux2Transformer2DModel",),
        ("Flux2KleinPipeline",),
        image.flux2,
        PatchedBatchNorm(),
        grids.flux2_grid,
        Prompt({"text": 0}, {}),
        scale=1.0,
        patch=1,
        compressed=2,
        tokens_of=image.flux2_grid,
    ),
    Family(
        "chroma",
        ("ChromaTransformer2DModel",),
        ("ChromaPipeline",),
        image.chroma,
        ScaleShift(),
        grids.grid_to_last_step,
        Prompt({"text": 0, "mask": 2}, ALONE),
        scale=1.0,
        packed=2,
        tokens_of=image.flux_grid,
    ),
    QWEN_IMAGE,
    Family(
        "z-image",
        ("ZImageTransformer2DModel",),
        ("ZImagePipeline",),
        image.z_image,
        ScaleShift(),
        grids.grid_to_last_step,
        Prompt({"text": 0}, ALONE),
        clock=time,
        scale=1.0,
        sign=1.0,
        scale_offset=1.0,
        last="all_final_layer.2-1.linear",
    ),
    Family(
        "lumina2",
        ("Lumina2Transformer2DModel",),
        ("Lumina2Pipeline",),
        image.masked,
        ScaleShift(),
        grids.grid_to_last_step,
        Prompt(MASKED, ALONE),
        clock=time,
        scale=1.0,
        sign=1.0,
        rule=PER_ROW,
        last="norm_out.linear_2",
    ),
    Family(
        "auraflow",
        ("AuraFlowTransformer2DModel",),
        ("AuraFlowPipeline",),
        image.aura,
        ScaleShift(),
        grids.own_grid,
        Prompt({"text": 0}, ALONE),
        scale=1.0,
    ),
    Family(
        "sana",
        ("SanaTransformer2DModel",),
        ("SanaPipeline",),
        image.sana,
        ScaleShift(),
        grids.own_grid,
        Prompt(MASKED, ALONE),
        patch=1,
    ),
    Family(
        "cogview4",
        ("CogView4Transformer2DModel",),
        ("CogView4Pipeline",),
        image.cogview4,
        ScaleShift(),
        grids.cogview4_grid,
        Prompt({"text": 0}, ALONE),
        clock=unshifted,
        settings=pixels_per_latent,
        tokens_of=image.flux_grid,
    ),
    Family(
        "prx",
        ("PRXTransformer2DModel",),
        ("PRXPipeline",),
        image.prx,
        ScaleShift(),
        grids.own_grid,
        Prompt(MASKED, ALONE),
        scale=1.0,
        last="final_layer.linear",
    ),
    Family(
        "hidream",
        ("HiDreamImageTransformer2DModel",),
        ("HiDreamImagePipeline",),
        image.hidream,
        ScaleShift(),
        grids.own_grid,
        Prompt({"t5": 0, "llama": 2, "pooled": 4}, {"prompt_2": None, "prompt_3": None, "prompt_4": None, **ALONE}),
        sign=1.0,
        last="final_layer.linear",
    ),
    Family(
        "hunyuan-image",
        ("HunyuanImageTransformer2DModel",),
        ("HunyuanImagePipeline",),
        image.hunyuan_image,
        ScaleShift(),
        grids.grid_to_last_step,
        Prompt({"text": 0, "mask": 1, "glyphs": 2, "glyph_mask": 3}, {}),
        patch=1,
        scale_argument="true_cfg_scale",  # the pipeline has a guider instead, so that sampling is not guided by default
        embedded=1000.0,
        embedded_argument="distilled_guidance_scale",
        map_call=image.hunyuan_image_map,
        is_map=uses_meanflow,
    ),
)
