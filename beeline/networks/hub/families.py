"""The table of families of pretrained flow networks, one entry each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from beeline.core.errors import BeelineError, nearest
from beeline.networks.hub import image_calls as image
from beeline.networks.hub import scheduling as grids
from beeline.networks.hub import video_calls as video
from beeline.networks.hub.family import Family, Settings, time
from beeline.networks.hub.statistics import BufferMeanStd, ChannelMeanStd, PatchedBatchNorm, ScaleShift

SHARED = ("max_sequence_length", "complex_human_instruction", "clean_caption", "text_encoder_out_layers")
"""Arguments of ``encode_prompt`` for which a pipeline's call has defaults of its own."""


@dataclass(frozen=True)
class Prompt:
    """The condition of texts, by the public ``encode_prompt`` of a pipeline, with the defaults of the pipeline's call.

    ``outputs`` gives the position of every leaf in its result.  ``arguments`` are passed in addition to the texts.
    Embeddings of different lengths are padded with zeros, with a leaf "mask" that is one for words.
    """

    outputs: Mapping[str, int]
    arguments: Mapping[str, Any]

    def __call__(self, pipeline: Any, texts: list[str]) -> dict[str, Any]:
        called, encoding = (inspect.signature(f).parameters for f in (type(pipeline).__call__, pipeline.encode_prompt))
        defaults = {name: called[name].default for name in SHARED if name in called and name in encoding}
        made = pipeline.encode_prompt(prompt=texts, **defaults, **self.arguments)
        found = {name: made[i] for name, i in self.outputs.items() if made[i] is not None}
        for name, leaf in list(found.items()):
            if isinstance(leaf, list):
                found[name] = pad_sequence(leaf, batch_first=True)
                found["mask"] = pad_sequence(
                    [torch.ones(len(row), device=row.device) for row in leaf], batch_first=True
                )
        return found


ALONE = {"do_classifier_free_guidance": False}  # a negative prompt is encoded by a call of its own


def pixels_per_latent(pipeline: Any) -> Settings:
    return {"pixels_per_latent": pipeline.vae_scale_factor}


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


def uses_meanflow(net: Any) -> bool:
    return bool(net.config.use_meanflow)


def always(net: Any) -> bool:
    return True


def unshifted(t: Tensor, x: Tensor) -> Tensor:
    """The whole-number time before the shift, which CogView4 takes while the solver uses the shifted one."""
    mu = 0.25 + 0.75 * math.sqrt((x.shape[2] // 2) * (x.shape[3] // 2) / 256)
    return torch.round(1000 * (1 - t) / (mu - (mu - 1) * (1 - t))) / 1000


PER_TOKEN = {"is": "rules.NormRestored", "norm": {"is": "norms.PerToken", "patch": 2}}
PER_ROW = {"is": "rules.NormRestored", "norm": {"is": "norms.PerRow"}}
MASKED = {"text": 0, "mask": 1}

FAMILIES: tuple[Family, ...] = (
    Family(
        "sd3",
        ("SD3Transformer2DModel",),
        ("StableDiffusion3Pipeline",),
        image.sd3,
        ScaleShift(),
        grids.own_grid,
        Prompt({"text": 0, "pooled": 2}, {"prompt_2": None, "prompt_3": None, **ALONE}),
        patch=1,
    ),
    Family(
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
    ),
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
    ),
    Family(
        "qwen-image",
        ("QwenImageTransformer2DModel",),
        ("QwenImagePipeline",),
        image.qwen,
        ChannelMeanStd(),
        grids.grid_to_last_step,
        Prompt(MASKED, {}),
        scale=1.0,
        rule=PER_TOKEN,
        scale_argument="true_cfg_scale",
        packed=2,
    ),
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
    ),
    Family(
        "wan",
        ("WanTransformer3DModel",),
        ("WanPipeline",),
        video.wan,
        ChannelMeanStd(),
        grids.own_grid,
        Prompt({"text": 0}, ALONE),
        settings=expanded_times,
        spatial="vae_scale_factor_spatial",
        temporal="vae_scale_factor_temporal",
        second=experts,
    ),
    Family(
        "ltx",
        ("LTXVideoTransformer3DModel",),
        ("LTXPipeline",),
        video.ltx,
        BufferMeanStd(),
        grids.grid_to_last_step,
        Prompt(MASKED, ALONE),
        patch=1,
        settings=rope_scale,
        spatial="vae_spatial_compression_ratio",
        temporal="vae_temporal_compression_ratio",
    ),
    Family(
        "hunyuan-video",
        ("HunyuanVideoTransformer3DModel",),
        ("HunyuanVideoPipeline",),
        video.hunyuan_video,
        ScaleShift(),
        grids.grid_to_last_step,
        Prompt({"text": 0, "pooled": 1, "mask": 2}, {"prompt_2": None}),
        scale_argument="true_cfg_scale",
        embedded=1000.0,
        spatial="vae_scale_factor_spatial",
        temporal="vae_scale_factor_temporal",
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
        spatial="vae_spatial_scale_factor",
        temporal="vae_temporal_scale_factor",
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
    Family(
        "anyflow",
        ("AnyFlowTransformer3DModel",),
        ("AnyFlowPipeline",),
        video.anyflow,
        ChannelMeanStd(),
        grids.own_grid,
        Prompt({"text": 0}, ALONE),
        spatial="vae_scale_factor_spatial",
        temporal="vae_scale_factor_temporal",
        map_call=video.anyflow_map,
        is_map=always,
    ),
)


def family_named(name: str) -> Family:
    """The family of a name; raises ValueError with the known ones."""
    known = {family.name: family for family in FAMILIES}
    if name not in known:
        raise BeelineError(f"{name!r} is no family of pretrained flows; {nearest(name, known)}")
    return known[name]


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline of diffusers; raises ValueError with the known classes."""
    classes = [c.__name__ for c in type(pipeline).__mro__]
    for family in FAMILIES:
        if family.pipelines[0] == classes[0] or classes[0] in family.pipelines:
            return family
    known = sorted(name for family in FAMILIES for name in family.pipelines)
    raise BeelineError(
        f"{classes[0]} is no pipeline of a known family of flows; its calls and its convention are unknown: use one "
        f"of {', '.join(known)}, or add an entry to networks/hub/families.py"
    )
