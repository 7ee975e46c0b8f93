"""Data of a pretrained pipeline: images or videos through its autoencoder, prompts through its text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.modality import ModalityBase
from beeline.networks.hub.family import Family

PROMPT, NEGATIVE, EMBEDDED = "prompt", "negative_prompt", "guidance"


@dataclass(frozen=True)
class Prompted(ModalityBase):
    """Images [C,H,W] or videos [C,F,H,W] in the latents of a pipeline, under prompts.

    A condition is given as ``prompt`` (a text, or one for each sample), ``negative_prompt``, ``guidance`` (the embedded
    guidance scale of distilled models) and precomputed embeddings under the names of the family's leaves.
    """

    pipeline: Any  # of diffusers: autoencoder, text encoders, processors
    family: Family
    size: tuple[int, ...] = ()  # shape of one latent
    guided: bool = False  # whether the default sampler needs a negative prompt
    embedded_scale: float | None = None  # default embedded guidance scale

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    def fit(self, raw: Any) -> Prompted:
        return self

    def encode(self, raw: Any, rng: Rng | None = None) -> Batch:
        """Images in the user's form as latents [N,*S]: the mean of the autoencoder's posterior, normalised."""
        vae = self.pipeline.vae
        with torch.no_grad():
            pixels = self._processor.preprocess(raw).to(vae.device, vae.dtype)
            z = vae.encode(pixels)
            mean = z.latent_dist.mode() if "latent_dist" in z else z.latent
        return Batch(self.family.statistics.to_flow(vae, mean.float()))

    def decode(self, x: Tensor) -> Any:
        """Latents [N,*S] as images of PIL, or as lists of frames."""
        vae = self.pipeline.vae
        z = self.family.statistics.to_vae(vae, x.to(vae.device).float()).to(vae.dtype)
        with torch.no_grad():
            pixels = vae.decode(z, return_dict=False)[0]
        if pixels.ndim == 5:
            return self.pipeline.video_processor.postprocess_video(pixels, output_type="pil")
        return self._processor.postprocess(pixels, output_type="pil")

    def condition(self, value: Any, n: int) -> Cond:
        """A prompt, or a mapping with prompts or embeddings, as a condition for ``n`` samples."""
        value = {PROMPT: value} if isinstance(value, str) else dict(value)
        made = self._encoded(value.pop(PROMPT, None), n)
        negative = value.pop(NEGATIVE, "" if self.guided and PROMPT in value else None)
        scale = value.pop(EMBEDDED, self.embedded_scale)
        given = {name: leaf for name, leaf in value.items() if leaf is not None}
        made = {**made, **given}
        require(
            bool(made),
            f"a condition was given without {PROMPT!r} and without embeddings; give a prompt, or the leaves "
            f"{', '.join(sorted(getattr(self.family.prompt, 'outputs', ())))}",
        )
        if negative is not None:
            made["negative"] = self._encoded(negative, n)
        if self.family.embedded is not None and scale is not None:
            made[EMBEDDED] = torch.full((n,), float(scale) * self.family.embedded)
        return made

    @property
    def _processor(self) -> Any:
        return self.pipeline.image_processor

    def _encoded(self, texts: str | Sequence[str] | None, n: int) -> dict[str, Any]:
        if texts is None:
            return {}
        rows = [texts] * n if isinstance(texts, str) else list(texts)
        require(
            len(rows) == n,
            f"{len(rows)} prompts were given for {n} samples; give one prompt, or one for each sample",
        )
        with torch.no_grad():
            return self.family.prompt(self.pipeline, rows)
