"""Families that make images or videos from text and images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from beeline.networks.hub.calls import editing
from beeline.networks.hub.calls.more_images import kandinsky5_reference
from beeline.networks.hub.calls.videos import hunyuan_frames
from beeline.networks.hub.family import EXTRAPOLATE, Family
from beeline.networks.hub.inputs import FirstFrame, ImageLatents, MaskedImage
from beeline.networks.hub.prompts import MASKED, OneByOne, Prompt
from beeline.networks.hub.table.images import FLUX, QWEN_IMAGE
from beeline.networks.hub.table.more_images import MORE_IMAGES
from beeline.networks.hub.table.videos import HUNYUAN_VIDEO, LTX, SKYREELS, WAN, output_channels


def megapixel(pipeline: Any) -> int:
    return 1024


OTHERS = {family.name: family for family in MORE_IMAGES}

EDITING: tuple[Family, ...] = (
    replace(
        FLUX,
        name="flux-kontext",
        pipelines=("FluxKontextPipeline",),
        call=editing.flux_reference,
        inputs=ImageLatents("image", "reference", optional=True),
        tokens_of=None,  # those of the reference stand behind them
    ),
    replace(
        FLUX,
        name="flux-fill",
        pipelines=("FluxFillPipeline",),
        call=editing.flux_channels,
        inputs=MaskedImage(),
        channels=output_channels,
        rule=None,
    ),
    replace(
        FLUX,
        name="flux-control",
        pipelines=("FluxControlPipeline",),
        call=editing.flux_channels,
        inputs=ImageLatents("control_image", "channels"),
        channels=output_channels,
        rule=None,
    ),
    replace(
        QWEN_IMAGE,
        name="qwen-image-edit",
        pipelines=("QwenImageEditPipeline",),
        tokens_of=None,
        call=editing.qwen_reference,
        inputs=ImageLatents("image", "reference"),
        prompt=Prompt(MASKED, {}, images=("image",), side=1024),
        side=megapixel,
    ),
    replace(
        QWEN_IMAGE,
        name="qwen-image-edit-plus",
        pipelines=("QwenImageEditPlusPipeline",),
        tokens_of=None,
        call=editing.qwen_reference,
        inputs=ImageLatents("image", "reference"),
        prompt=OneByOne(Prompt(MASKED, {}, images=("image",), side=384)),
        side=megapixel,
    ),
    replace(
        OTHERS["longcat-image"],
        name="longcat-image-edit",
        pipelines=("LongCatImageEditPipeline",),
        call=editing.longcat_reference,
        inputs=ImageLatents("image", "reference"),
        prompt=OneByOne(Prompt({"text": 0}, {}, images=("image",), side=512)),
        rule=EXTRAPOLATE,
        side=megapixel,
    ),
    replace(
        OTHERS["kandinsky5"],
        name="kandinsky5-image-to-image",
        pipelines=("Kandinsky5I2IPipeline",),
        call=kandinsky5_reference,
        inputs=ImageLatents("image", "reference"),
        prompt=Prompt({"text": 0, "pooled": 1}, {}, images=("image",)),
        side=megapixel,
    ),
    replace(
        WAN,
        name="wan-image-to-video",
        pipelines=("WanImageToVideoPipeline",),
        call=editing.wan_frames,
        inputs=FirstFrame(),
        channels=output_channels,
    ),
    replace(
        SKYREELS,
        name="skyreels-v2-image-to-video",
        pipelines=("SkyReelsV2ImageToVideoPipeline",),
        call=editing.wan_frames,
        inputs=FirstFrame(),
        channels=output_channels,
    ),
    replace(
        LTX,
        name="ltx-image-to-video",
        pipelines=("LTXImageToVideoPipeline",),
        call=editing.ltx_frames,
        inputs=ImageLatents("image", "known"),
    ),
    replace(
        HUNYUAN_VIDEO,
        name="skyreels-image-to-video",
        pipelines=("HunyuanSkyreelsImageToVideoPipeline",),
        call=hunyuan_frames,
        inputs=ImageLatents("image", "known"),
        channels=output_channels,
    ),
)
