"""Families that make images or videos from text and images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from beeline.networks.hub.calls import editing
from beeline.networks.hub.family import Family
from beeline.networks.hub.inputs import FirstFrame, ImageLatents, MaskedImage
from beeline.networks.hub.prompts import MASKED, Prompt
from beeline.networks.hub.table.images import FLUX, QWEN_IMAGE
from beeline.networks.hub.table.videos import LTX, WAN


def output_channels(pipeline: Any) -> int:
    """Channels of the network's output, in its tokens."""
    return int(pipeline.transformer.config.out_channels)


def megapixel(pipeline: Any) -> int:
    return 1024


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
        call=editing.qwen_reference,
        inputs=ImageLatents("image", "reference"),
        prompt=Prompt(MASKED, {}, images=("image",)),
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
        LTX,
        name="ltx-image-to-video",
        pipelines=("LTXImageToVideoPipeline",),
        call=editing.ltx_frames,
        inputs=ImageLatents("image", "known"),
    ),
)
