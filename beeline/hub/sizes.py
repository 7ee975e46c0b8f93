"""Pretrained bundles at sizes that their networks were not trained for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from beeline.core.errors import require
from beeline.data.pretrained import Prompted
from beeline.networks.hub.family import Experts, Pretrained, latents_of, pixels_of
from beeline.networks.hub.sizes.positions import with_rotary
from beeline.networks.hub.sizes.rotary import Rotary
from beeline.runs.bundle import Bundle, relabel
from beeline.sampling.enlarging import Bicubic, Resize
from beeline.sampling.scale_fusion import ScaleFused

FUSED = {"flux": False, "sd3": True, "qwen-image": False}
"""Families for which scale fusion is tested -> whether image tokens come before those of the text."""


def extended(bundle: Bundle, rotary: Rotary) -> Bundle:
    """The bundle with other rotary position embeddings of rows and columns in its network, whose weights are shared.

    The size of the samples is that of ``bl.load``, ``from_pipeline`` or ``resized``.  Another extension is replaced.

    Raises ValueError for a family without rotary embeddings or for which they are not tested, and for a bundle with a
    cache or compiled blocks, which are added afterwards.
    """
    field: Any = bundle.flow.field
    require(
        isinstance(field, Pretrained | Experts),
        f"the field of this bundle is {type(field).__name__}; rotary embeddings are changed in pipelines of diffusers "
        "before a cache or compilation is added: load one with bl.load or bl.hub.from_pipeline",
    )
    if isinstance(field, Experts):
        made: Any = Experts(with_rotary(field.high, rotary), with_rotary(field.low, rotary), field.boundary)  # type: ignore[arg-type]
    else:
        made = with_rotary(field, rotary)
    return relabel(replace(bundle, flow=replace(bundle.flow, field=made)), rotary=repr(rotary))


def through_pixels(bundle: Bundle) -> Resize:
    """The ``resize`` of an Enlarging sampler that decodes latents, resizes pixels by cubic interpolation, and encodes.

    Interpolated latents are no latents of interpolated pictures; this takes a decoding and an encoding, and their
    errors.  Raises ValueError for a bundle that is no pipeline of diffusers.
    """
    modality = bundle.modality
    require(
        isinstance(modality, Prompted),
        f"the data of this bundle are {type(modality).__name__}, which have no autoencoder of a pipeline; resize the "
        "states themselves with Bicubic, the default",
    )
    vae, family = modality.pipeline.vae, modality.family

    def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
        pixels = pixels_of(vae, family, x)
        h, w = (new * old // part for new, old, part in zip(size, pixels.shape[-2:], x.shape[-2:], strict=True))
        return latents_of(vae, family, Bicubic()(pixels, (h, w))).to(x)

    return resize


def scale_fused(bundle: Bundle, height: int, width: int) -> Bundle:
    """The bundle with self-attention that takes low frequencies from windows of the trained size (ScaleFused).

    ``height`` and ``width`` are the trained size in pixels.  Up to it nothing changes.

    Raises ValueError for a family for which it is not tested, and for a bundle with a cache or compiled blocks.
    """
    field: Any = bundle.flow.field
    name = field.family.name if isinstance(field, Pretrained) else type(field).__name__
    require(
        name in FUSED,
        f"scale fusion was requested of {name}; it is tested for pipelines of {', '.join(FUSED)} without caches and "
        "compilation: use ProjectedFlow or Enlarging",
    )
    modality: Any = bundle.modality
    _, rows, columns = field.family.latent_shape(modality.pipeline, height, width)
    patch = field.family.patch
    made = ScaleFused(field, (rows // patch, columns // patch), patch, FUSED[name])
    return relabel(replace(bundle, flow=replace(bundle.flow, field=made)), scale_fused=[height, width])
