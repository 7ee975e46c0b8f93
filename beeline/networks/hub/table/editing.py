"""Families that make images or videos from text and images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from beeline.networks.hub.calls import editing
from beeline.networks.hub.family import Family
from beeline.networks.hub.inputs import ImageLatents, MaskedImage
from beeline.networks.hub.table.images import FLUX


def output_channels(pipeline: Any) -> int:
    """Channels of the network's output, in its tokens."""
    return int(pipeline.transformer.config.out_channels)


EDITING: tuple[Family, ...] = (
    replace(
        FLUX,
        name="flux-kontext",
        pipelines=("FluxKontextPipeline",),
        call=editing.flux_reference,
        inputs=ImageLatents("image", "reference", required=False),
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
)
