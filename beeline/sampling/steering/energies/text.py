"""The similarity of images and texts, by a CLIP model of transformers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import BeelineError, extra, require
from beeline.core.ranges import Positive, dataclass
from beeline.core.types import Cond


@dataclass(frozen=True)
class TextSimilarity:
    """The cosine distance of an image and a text in the space of a CLIP model.

    E = weight (1 - cos(image(x1), text)),  image of (resize((x1 + 1) / 2) - mean) / std
    Assumes images [B,C,H,W] in [-1, 1] of one or three channels, the library transformers, and weights in safetensors.
    A predicted datum is blurred at early times, for which the model was not trained: guide later, by Scheduled.
    Source: Radford et al. 2021 (arXiv 2103.00020), the model; Liu et al. 2021, "FuseDream" (arXiv 2112.01573), its
    similarity as an objective.

    >>> TextSimilarity("a red boat").model
    'openai/clip-vit-base-patch32'
    """

    text: str
    model: str = "openai/clip-vit-base-patch32"  # hub id, or a directory that save_pretrained wrote
    weight: Positive = 100.0  # 100 is the inverse temperature of trained models
    revision: str | None = None  # branch, tag or commit of the hub; None is its newest

    def __post_init__(self) -> None:
        require(
            isinstance(self.text, str) and bool(self.text.strip()),
            f"TextSimilarity got the text {self.text!r}; an image is compared with words: give some",
        )

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        require(
            x1.ndim == 4 and x1.shape[1] in (1, 3),
            f"TextSimilarity got data of shape {tuple(x1.shape)}; it takes images [B,C,H,W] of one or three channels: "
            "use Decoded(TextSimilarity(...)) for latents",
        )
        net, *statistics = _clip(self.model, self.revision)
        side = net.config.vision_config.image_size
        shown = ((x1.float() + 1) / 2).expand(-1, 3, -1, -1)
        shown = nn.functional.interpolate(shown, size=(side, side), mode="bicubic", antialias=True)
        mean, std = (shown.new_tensor(part)[:, None, None] for part in statistics)
        pixels = (shown.clamp(0, 1) - mean) / std
        image = net.to(x1.device).visual_projection(net.vision_model(pixel_values=pixels).pooler_output)
        text = _text(self.model, self.revision, self.text).to(image)
        return self.weight * (1 - nn.functional.cosine_similarity(image, text)).to(x1)


@functools.lru_cache(maxsize=1)
def _clip(name: str, revision: str | None) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """A CLIP model, and mean and deviation of its pixels."""
    library = extra("transformers", "encoders")
    try:
        net = library.CLIPModel.from_pretrained(name, revision=revision, use_safetensors=True)  # nothing is unpickled
    except (OSError, ValueError) as error:
        raise BeelineError(
            f"{name} gave no CLIP model in safetensors ({type(error).__name__}); check the name, and the network if it "
            "is a hub id"
        ) from None
    try:
        settings, _ = library.ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
    except (OSError, ValueError):
        settings = {}
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of the published models
    mean, std = (tuple(settings.get(f"image_{key}") or usual) for key, usual in (("mean", mean), ("std", std)))
    return net.float().eval().requires_grad_(False), mean, std


@functools.lru_cache(maxsize=16)
def _text(name: str, revision: str | None, text: str) -> Tensor:
    """The embedding [1,d] of a text, on the CPU."""
    net, _, _ = _clip(name, revision)
    library = extra("transformers", "encoders")
    words = library.AutoTokenizer.from_pretrained(name, revision=revision)([text], truncation=True, return_tensors="pt")
    with torch.no_grad():
        where = {key: value.to(net.device) for key, value in words.items() if key in ("input_ids", "attention_mask")}
        made: Tensor = net.text_projection(net.text_model(**where).pooler_output).cpu()
    return made
