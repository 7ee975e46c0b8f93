"""Vision models of the Hugging Face hub."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import BeelineError, extra, require
from beeline.core.files import digest
from beeline.core.ranges import Whole, dataclass
from beeline.objectives.losses.encoders import EncoderBase, tokens


@dataclass(frozen=True)
class HubVision(EncoderBase):
    """A vision model of the Hugging Face hub, on pictures in [-1, 1].

    last hidden states of its patches for (resize((x + 1) / 2) - mean) / std;  pooled: the class token, the projected
    embedding of CLIP, or the mean of the patches without either
    Assumes the library transformers and a model of pixels whose first ``skip`` tokens are no patches; pictures of one
    channel are shown in three.  Size, interpolation, mean and std are those of the image processor that is saved beside
    the model, but the whole picture is resized: a crop would hide its edges.
    Source: Yu et al. 2025, "Representation Alignment for Generation" (arXiv 2410.06940), and Stein et al. 2023
    (arXiv 2306.04675), both with DINOv2.

    >>> HubVision("facebook/dinov2-small").skip
    1
    """

    name: str  # hub id owner/name, or a directory that save_pretrained wrote
    mean: tuple[float, ...] | None = None  # of the pixels in [0, 1], by channel; None: of the processor, else ImageNet
    std: tuple[float, ...] | None = None  # above 0; None: of the processor, else ImageNet
    skip: Whole = 1  # tokens before the patches: 1 for a class token, 5 with four registers, 0 without
    revision: str | None = None  # branch, tag or commit of the hub; None is its newest

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", None if self.mean is None else tuple(self.mean))
        object.__setattr__(self, "std", None if self.std is None else tuple(self.std))

    @property
    def hash(self) -> str:
        return digest({}, _hub(self.name, self.revision).hash, repr((self.mean, self.std, self.skip)))

    def __call__(self, x: Tensor) -> Tensor:
        made: Tensor = self._outputs(x).last_hidden_state
        return tokens(made)[:, self.skip if made.ndim == 3 else 0 :].to(x.dtype)

    def pooled(self, x: Tensor) -> Tensor:
        found = self._outputs(x)
        if "image_embeds" in found:  # CLIP
            return found["image_embeds"]
        hidden: Tensor = found.last_hidden_state
        return hidden[:, 0] if self.skip and hidden.ndim == 3 else tokens(hidden).mean(1)

    def _outputs(self, x: Tensor) -> Any:
        require(
            x.ndim == 4 and x.shape[1] in (1, 3),
            f"HubVision was given data of shape {tuple(x.shape)}; it takes pictures [B,C,H,W] of one or three "
            "channels: use RandomFeatures or OfBundle for others",
        )
        vision = _hub(self.name, self.revision)
        shown = vision.resized(((x.float() + 1) / 2).expand(-1, 3, -1, -1))
        mean, std = (shown.new_tensor(p)[:, None, None] for p in (self.mean or vision.mean, self.std or vision.std))
        return vision.net.to(x.device)(pixel_values=(shown - mean) / std)


# -------------------------------------------------------------------------------------------------------- vision models

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std of the pixels
MODES: Mapping[int, str] = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # interpolations, as processors number them
CLASSES: Mapping[str, Callable[[Any], Any]] = {"clip": lambda library: library.CLIPVisionModelWithProjection}
"""The class for models that hold more than a vision model, by kind of model."""


@plain_dataclass(frozen=True)
class VisionModel:
    """A vision model with what its image processor does to pictures."""

    net: Any
    size: tuple[int, int]
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str  # of its weights, its size and its interpolation

    def resized(self, x: Tensor) -> Tensor:
        """Pictures [B,C,H,W] in [0, 1] at the size of the model, rounded to 8 bits as an image library does."""
        if tuple(x.shape[2:]) == self.size:
            return x
        smooth = {} if self.mode == MODES[0] else {"antialias": True}
        made = F.interpolate(x, size=self.size, mode=self.mode, **smooth)  # type: ignore[arg-type]
        rounded = (made.detach() * 255).round_().clamp_(0, 255) / 255
        return made + (rounded - made.detach()) if made.requires_grad else rounded


@functools.lru_cache(maxsize=2)
def _hub(name: str, revision: str | None) -> VisionModel:
    library = extra("transformers", "encoders")
    config = _from_hub(library.AutoConfig, name, revision)
    vision = config if config.model_type not in CLASSES else config.vision_config
    require(
        "image_size" in vision.to_dict(),
        f"{name} is a model of the kind {config.model_type!r}, which takes no pictures; name a vision model, such as "
        "facebook/dinov2-small",
    )
    chosen, more = library.AutoModel, {}
    if config.model_type in CLASSES:
        chosen, more = CLASSES[config.model_type](library), {"projection_dim": config.projection_dim}
    verbosity = library.logging.get_verbosity()
    library.logging.set_verbosity_error()  # the weights of a text model in the same file are not needed
    try:
        net, report = _from_hub(chosen, name, revision, use_safetensors=True, output_loading_info=True, **more)
    finally:
        library.logging.set_verbosity(verbosity)
    lost = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))  # which is not used
    require(
        not lost,
        f"{name} has no weights for {', '.join(lost[:3])} ({len(lost)} in all) of {type(net).__name__}, which would be "
        "random; name a complete vision model",
    )
    settings = _processor(library, name, revision)
    mode = settings.get("resample", 2)
    size = _size(settings.get("crop_size") or settings.get("size") or vision.image_size)
    require(
        mode in MODES and size is not None,
        f"the image processor of {name} resizes to {settings.get('size')} with the interpolation {mode}, which is not "
        f"among {dict(MODES)}; change its preprocessor_config.json",
    )
    assert size is not None
    mean, std = (tuple(settings.get(f"image_{k}") or v) for k, v in zip(("mean", "std"), IMAGENET, strict=True))
    net = net.eval().requires_grad_(False)
    about = repr((size, MODES[mode], mean, std))
    return VisionModel(net, size, MODES[mode], mean, std, digest(net.state_dict(), about))


def _size(given: Any) -> tuple[int, int] | None:
    """Height and width of a size as configurations and processors write it; None where it is another thing."""
    if isinstance(given, Mapping):
        given = [given.get(key) or given.get("shortest_edge") for key in ("height", "width")]
    pair = [given, given] if isinstance(given, int) else list(given)
    return (pair[0], pair[1]) if len(pair) == 2 and all(isinstance(side, int) for side in pair) else None


def _from_hub(loader: Any, name: str, revision: str | None, **more: Any) -> Any:
    """What a loader of transformers gives: from a directory or the cache of the hub, or downloaded, which is said."""
    try:
        return loader.from_pretrained(name, revision=revision, local_files_only=True, **more)
    except (OSError, ValueError):
        pass
    try:
        if not Path(name).exists():
            print(f"{name} is not in the cache: it is read from the Hugging Face hub", file=sys.stderr)
        return loader.from_pretrained(name, revision=revision, **more)  # nothing is unpickled
    except (OSError, ValueError) as error:
        raise BeelineError(
            f"the hub gave no model {name!r} in safetensors ({type(error).__name__}), nor is it a directory of one; "
            "check the spelling, and the network if it is a hub id; weights that are pickles are not read"
        ) from None


def _processor(library: Any, name: str, revision: str | None) -> dict[str, Any]:
    """The settings of the image processor that is saved beside a model; none where there is no such file."""
    try:
        settings, _ = library.ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
        return dict(settings)
    except (OSError, ValueError):
        return {}
