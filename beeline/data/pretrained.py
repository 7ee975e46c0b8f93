"""Data of a pretrained pipeline: images or videos through its autoencoder, prompts through its text encoders."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.files import write_bytes
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.modality import ModalityBase
from beeline.networks.hub.family import Family, latents_of, pixels_of
from beeline.networks.hub.inputs import opened

PROMPT, NEGATIVE, EMBEDDED = "prompt", "negative_prompt", "guidance"


@dataclass(frozen=True)
class Prompted(ModalityBase):
    """Images [C,H,W] or videos [C,F,H,W] in the latents of a pipeline, under prompts.

    A condition is given as ``prompt`` (a text, or one for each sample), ``negative_prompt``, ``guidance`` (the embedded
    guidance scale of distilled models), the images of the family (paths, or pictures of PIL, which are resized) and
    precomputed embeddings under the names of the family's leaves.
    """

    pipeline: Any  # of diffusers: autoencoder, text encoders, processors
    family: Family
    size: tuple[int, ...] = ()  # shape of one latent
    guided: bool = False  # whether the default sampler needs a negative prompt
    embedded_scale: float | None = None  # default embedded guidance scale

    formats = ("", ".png")  # a directory of images or animations, or one grid of images
    preview_type = "image/png"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    def fit(self, raw: Any) -> Prompted:
        return self

    def encode(self, raw: Any, rng: Rng | None = None) -> Batch:
        """Images or videos in the user's form as latents [N,*S]: the mean of the posterior, normalised."""
        processor = self._processor
        pixels = processor.preprocess_video(raw) if self.family.temporal else processor.preprocess(raw)
        return Batch(latents_of(self.pipeline.vae, self.family, pixels))

    def pixels(self, x: Tensor) -> Tensor:
        """Latents [N,*S] as images [N,C,H,W] or videos [N,C,F,H,W], about in [-1, 1]; differentiable."""
        return pixels_of(self.pipeline.vae, self.family, x)

    def decode(self, x: Tensor) -> Any:
        """Latents [N,*S] as images of PIL, or as lists of frames."""
        pixels = self.pixels(x.detach())
        if pixels.ndim == 5:
            return self.pipeline.video_processor.postprocess_video(pixels, output_type="pil")
        return self._processor.postprocess(pixels, output_type="pil")

    def condition(self, value: Any, n: int) -> Cond:
        """A prompt, or a mapping with prompts or embeddings, as a condition for ``n`` samples."""
        value = {PROMPT: value} if isinstance(value, str) else dict(value)
        self._check(value)
        negative = value.pop(NEGATIVE, "" if self.guided and PROMPT in value else None)
        images = self._taken(value)
        shared = self._image_leaves(images, value, n)
        scale = value.pop(EMBEDDED, self.embedded_scale)
        if self.family.embedded is not None and scale is not None:
            shared[EMBEDDED] = torch.full((n,), float(scale) * self.family.embedded)
        made = self._encoded(value.pop(PROMPT, None), n, images) | value
        require(
            bool(made),
            f"a condition was given without {PROMPT!r} and without embeddings; give a prompt, such as "
            'prompt="a lighthouse", or embeddings by the names of the family',
        )
        if negative is not None:
            made["negative"] = self._encoded(negative, n, images) | shared
        return made | shared

    def _taken(self, value: dict[str, Any]) -> dict[str, Any]:
        """The images of a condition, taken out of it; raises ValueError if some are missing."""
        names = () if self.family.inputs is None else self.family.inputs.names
        missing = [name for name in names if name not in value]
        require(
            len(missing) in (0, len(names)),
            f"the condition lacks {' and '.join(missing)}; the family {self.family.name} makes samples from "
            f"{' and '.join(names)}: give all of them",
        )
        return {name: opened(value.pop(name)) for name in names if name in value}

    def _image_leaves(self, images: Mapping[str, Any], value: dict[str, Any], n: int) -> dict[str, Tensor]:
        """Leaves of images for ``n`` samples, and those that were given as such, which are taken out of ``value``."""
        inputs = self.family.inputs
        if inputs is None:
            return {}
        made = inputs(self.pipeline, self.family, images, self.size) if images else {}
        for leaf in made.values():
            require(
                len(leaf) in (1, n),
                f"{len(leaf)} images were given for {n} samples; give one image, or one for each sample",
            )
        given = {leaf: value.pop(leaf) for leaf in inputs.leaves if leaf in value}
        return given | {name: leaf.expand(n, *leaf.shape[1:]) for name, leaf in made.items()}

    def _check(self, value: Mapping[str, Any]) -> None:
        """Raise ValueError for names that the family does not have, and for values of another kind."""
        known = [PROMPT, *self.family.prompt.outputs, "mask"]
        known += [NEGATIVE, "negative"] if self.family.rule is not None else []
        known += [EMBEDDED] if self.family.embedded is not None else []
        images = () if self.family.inputs is None else self.family.inputs.names
        known += [*images, *(self.family.inputs.leaves if self.family.inputs else ())]
        for name, given in value.items():
            require(
                name in known,
                f"the condition {name!r} was given to a model of the family {self.family.name}, which has no such "
                f"condition; {nearest(name, known)}",
            )
            text = isinstance(given, str) or (
                isinstance(given, list | tuple) and all(isinstance(t, str) for t in given)
            )
            if name in (PROMPT, NEGATIVE):
                require(text, f"{name} is {type(given).__name__}; give a text, or one for each sample")
            elif name != EMBEDDED and name not in images:
                require(
                    isinstance(given, Tensor | Mapping),
                    f"the embeddings {name!r} are {type(given).__name__}; give a tensor with one row per sample",
                )
        try:
            float(value.get(EMBEDDED) or 0.0)
        except (TypeError, ValueError):
            raise BeelineError(f"{EMBEDDED}={value[EMBEDDED]!r} is no number; give one, 3.5 is usual") from None

    def save(self, raw: Any, path: Path) -> None:
        """Images as PNG files in a directory, or as a grid in one file; videos as GIF files in a directory."""
        if path.suffix == ".png":
            require(
                not isinstance(raw[0], list),
                f"{path} was requested for videos; give a directory, which gets one GIF file for each",
            )
            write_bytes(path, self.preview(raw))
            return
        path.mkdir(parents=True, exist_ok=True)
        width = max(3, len(str(len(raw) - 1)))
        for i, one in enumerate(raw):
            kind = "gif" if isinstance(one, list) else "png"
            write_bytes(path / f"{i:0{width}d}.{kind}", encoded(one))

    def preview(self, raw: Any) -> bytes:
        """A grid of the images, or of the first frames of videos, as PNG."""
        from PIL import Image

        tiles = [one[0] if isinstance(one, list) else one for one in raw[: self.previewed]]
        columns = math.ceil(math.sqrt(len(tiles)))
        w, h = tiles[0].size
        sheet = Image.new("RGB", (columns * w, math.ceil(len(tiles) / columns) * h), "white")
        for i, tile in enumerate(tiles):
            sheet.paste(tile, (i % columns * w, i // columns * h))
        return encoded(sheet)

    @property
    def _processor(self) -> Any:
        return self.family.processor(self.pipeline)

    def _encoded(self, texts: str | Sequence[str] | None, n: int, images: Mapping[str, Any]) -> dict[str, Any]:
        if texts is None:
            return {}
        rows = [texts] * n if isinstance(texts, str) else list(texts)
        require(
            len(rows) == n,
            f"{len(rows)} prompts were given for {n} samples; give one prompt, or one for each sample",
        )
        with torch.no_grad():
            return self.family.prompt(self.pipeline, rows, images)


def encoded(picture: Any) -> bytes:
    """An image of PIL as PNG, or a list of frames as GIF."""
    buffer = io.BytesIO()
    if isinstance(picture, list):
        picture[0].save(buffer, "GIF", save_all=True, append_images=picture[1:], duration=1000 // 16, loop=0)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()
