"""Families that make videos from text."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from beeline.networks.hub import scheduling as grids
from beeline.networks.hub.calls import images as image
from beeline.networks.hub.calls import videos as video
from beeline.networks.hub.family import Family, Settings, time
from beeline.networks.hub.prompts import ALONE, MASKED, Prompt
from beeline.networks.hub.statistics import AnyMeanStd, BufferMeanStd, ChannelMeanStd, ScaleShift
from beeline.networks.hub.table.more_images import visual_channels


def rope_scale(pipeline: Any, frame_rate: float = 25.0) -> Settings:
    """Rotary positions of LTX in seconds and pixels, for ``frame_rate`` frames per second."""
    space, frames = pipeline.vae_spatial_compression_ratio, pipeline.vae_temporal_compression_ratio
    return {"rope_interpolation_scale": (frames / frame_rate, space, space)}


def expanded_times(pipeline: Any) -> Settings:
    return {"expand_timesteps": bool(pipeline.config.expand_timesteps)}


def experts(pipeline: Any) -> tuple[Any, float] | None:
    """The network of low noise of Wan 2.2 A14B, and the noise level from which the other one is used."""
    if pipeline.transformer_2 is None or pipeline.config.boundary_ratio is None:
        return None
    return pipeline.transformer_2, float(pipeline.config.boundary_ratio)


def always(net: Any) -> bool:
    return True


def image_tokens(pipeline: Any) -> Settings:
    return {"image_tokens": pipeline.vision_num_semantic_tokens}


def guider_scale(pipeline: Any) -> float | None:
    return float(pipeline.guider.guidance_scale)


def target_size(pipeline: Any) -> int:
    return int(pipeline.target_size)


def half_megapixel(pipeline: Any) -> int:
    return 512


def output_channels(pipeline: Any) -> int:
    """Channels of the network's output, in its tokens."""
    return int(pipeline.transformer.config.out_channels)


def sparse_attention(pipeline: Any) -> Settings:
    return {"sparse": pipeline.get_sparse_params, "pixels_per_latent": pipeline.vae_scale_factor_spatial}


WAN = Family(
    "wan",
    ("WanTransformer3DModel",),
    ("WanPipeline",),
    video.wan,
    ChannelMeanStd(),
    grids.own_grid,
    Prompt({"text": 0}, ALONE),
    settings=expanded_times,
    spatial=attrgetter("vae_scale_factor_spatial"),
    temporal="vae_scale_factor_temporal",
    second=experts,
)

LTX = Family(
    "ltx",
    ("LTXVideoTransformer3DModel",),
    ("LTXPipeline",),
    video.ltx,
    BufferMeanStd(),
    grids.grid_to_last_step,
    Prompt(MASKED, ALONE),
    patch=1,
    settings=rope_scale,
    spatial=attrgetter("vae_spatial_compression_ratio"),
    temporal="vae_temporal_compression_ratio",
)

HUNYUAN_VIDEO = Family(
    "hunyuan-video",
    ("HunyuanVideoTransformer3DModel",),
    ("HunyuanVideoPipeline",),
    video.hunyuan_video,
    ScaleShift(),
    grids.grid_to_last_step,
    Prompt({"text": 0, "pooled": 1, "mask": 2}, {"prompt_2": None}),
    scale_argument="true_cfg_scale",
    embedded=1000.0,
    spatial=attrgetter("vae_scale_factor_spatial"),
    temporal="vae_scale_factor_temporal",
)

SKYREELS = Family(
    "skyreels-v2",
    ("SkyReelsV2Transformer3DModel",),
    ("SkyReelsV2Pipeline",),
    video.wan,
    ChannelMeanStd(),
    grids.own_grid,
    Prompt({"text": 0}, ALONE),
    spatial=attrgetter("vae_scale_factor_spatial"),
    temporal="vae_scale_factor_temporal",
)

VIDEOS: tuple[Family, ...] = (
    WAN,
    LTX,
    HUNYUAN_VIDEO,
    Family(
        "hunyuan-video-1.5",
        ("HunyuanVideo15Transformer3DModel",),
        ("HunyuanVideo15Pipeline",),
        video.hunyuan_video15,
        ScaleShift(),
        grids.grid_to_last_step,
        Prompt({"text": 0, "mask": 1, "glyphs": 2, "glyph_mask": 3}, {}),
        patch=1,
        own_scale=guider_scale,
        settings=image_tokens,
        channels=output_channels,
        side=target_size,
        spatial=attrgetter("vae_scale_factor_spatial"),
        temporal="vae_scale_factor_temporal",
    ),
    Family(
        "easyanimate",
        ("EasyAnimateTransformer3DModel",),
        ("EasyAnimatePipeline",),
        video.easyanimate,
        ScaleShift(),
        grids.shifted_by_e,
        Prompt({"text": 0}, ALONE),
        spatial=attrgetter("vae_spatial_compression_ratio"),
        side=half_megapixel,
        temporal="vae_temporal_compression_ratio",
    ),
    Family(
        "mochi",
        ("MochiTransformer3DModel",),
        ("MochiPipeline",),
        image.masked,
        ChannelMeanStd(scaled=True),
        grids.linear_quadratic,
        Prompt(MASKED, ALONE),
        clock=time,
        sign=1.0,
        spatial=attrgetter("vae_spatial_scale_factor"),
        temporal="vae_temporal_scale_factor",
    ),
    Family(
        "anyflow",
        ("AnyFlowTransformer3DModel",),
        ("AnyFlowPipeline",),
        video.anyflow,
        ChannelMeanStd(),
        grids.own_grid,
        Prompt({"text": 0}, ALONE),
        spatial=attrgetter("vae_scale_factor_spatial"),
        temporal="vae_scale_factor_temporal",
        map_call=video.anyflow_map,
        is_map=always,
    ),
    SKYREELS,
    Family(
        "sana-video",
        ("SanaVideoTransformer3DModel",),
        ("SanaVideoPipeline",),
        video.sana_video,
        AnyMeanStd(),
        grids.own_grid,
        Prompt(MASKED, ALONE),
        spatial=attrgetter("vae_scale_factor_spatial"),
        temporal="vae_scale_factor_temporal",
    ),
    Family(
        "kandinsky5-video",
        ("Kandinsky5Transformer3DModel",),
        ("Kandinsky5T2VPipeline",),
        video.kandinsky5_video,
        ScaleShift(shifted=False),
        grids.own_grid,
        Prompt({"text": 0, "pooled": 1}, {}),
        settings=sparse_attention,
        channels=visual_channels,
        spatial=attrgetter("vae_scale_factor_spatial"),
        temporal="vae_scale_factor_temporal",
        last="out_layer.out_layer",
    ),
)
