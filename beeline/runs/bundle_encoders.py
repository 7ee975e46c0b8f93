"""Encoders that come from outside a run: a trained bundle, or a vision model of the hub."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import BeelineError, extra, require
from beeline.core.modes import eval_mode
from beeline.core.ranges import Whole, dataclass
from beeline.fields.flow import Flow, evaluate_field
from beeline.networks.hooks import block_name, captured_outputs, latest_output
from beeline.objectives.losses.encoders import tokens
from beeline.runs.bundle import load


@dataclass(frozen=True)
class OfBundle:
    """The hidden features of a trained flow on clean data.

    h_block(x1, t), with no condition;  feature maps as tokens, one for each place
    Assumes a bundle for data of the same shape, whose network needs no vectors as a condition.
    Source: Xiang et al. 2023, "Denoising Diffusion Autoencoders are Unified Self-supervised Learners"
    (arXiv 2303.09769).

    >>> OfBundle("runs/digits", t=0.9).block
    ''
    """

    path: str  # directory of the bundle, or hub:owner/name
    block: str = ""  # the module whose output is read, by its name there; empty is the middle block
    t: float = 0.9  # time at which the datum is shown; below 1, where most networks have least to say

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        require(0 <= self.t <= 1, f"OfBundle got t={self.t}; a time is between 0 and 1: 0.9 is usual")

    def __call__(self, x: Tensor) -> Tensor:
        field = bundled(self.path).field.to(x.device)
        block = block_name(field, self.block)
        with eval_mode(field), captured_outputs(field, block) as seen:
            evaluate_field(field, x, torch.full((len(x),), self.t, device=x.device))
        return tokens(latest_output(seen, block)).to(x.dtype)


@dataclass(frozen=True)
class HubVision:
    """A vision model of the Hugging Face hub, on pictures in [-1, 1].

    last hidden states of its patches for resize((x + 1) / 2 - mean) / std
    Assumes the library transformers and a model of pixels whose first ``skip`` tokens are no patches; pictures of one
    channel are shown in three.
    Source: Yu et al. 2025, "Representation Alignment for Generation" (arXiv 2410.06940), with DINOv2.

    >>> HubVision("facebook/dinov2-small").skip
    1
    """

    name: str  # hub id owner/name, or a directory that save_pretrained wrote
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of the pixels in [0, 1], by channel, as the model was trained
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # above 0
    skip: Whole = 1  # tokens before the patches: 1 for a class token, 5 with four registers
    revision: str | None = None  # branch, tag or commit of the hub; None is its newest

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        require(
            x.ndim == 4 and x.shape[1] in (1, 3),
            f"HubVision was given data of shape {tuple(x.shape)}; it takes pictures [B,C,H,W] of one or three "
            "channels: use RandomFeatures or OfBundle for others",
        )
        net = _hub(self.name, self.revision).to(x.device)
        side = net.config.image_size
        size = (side, side) if isinstance(side, int) else tuple(side)
        shown = (x.float().expand(-1, 3, -1, -1) + 1) / 2
        shown = shown if shown.shape[2:] == size else F.interpolate(shown, size=size, mode="bilinear", antialias=True)
        mean, std = (shown.new_tensor(part)[:, None, None] for part in (self.mean, self.std))
        made: Tensor = net(pixel_values=(shown - mean) / std).last_hidden_state
        return made[:, self.skip :].to(x.dtype)


@functools.lru_cache(maxsize=2)
def bundled(path: str) -> Flow:
    """The frozen flow of a bundle, kept for the next time."""
    return load(path, device="cpu").flow


@functools.lru_cache(maxsize=2)
def _hub(name: str, revision: str | None) -> Any:
    models = extra("transformers", "encoders").AutoModel
    try:
        net = models.from_pretrained(name, revision=revision, use_safetensors=True)  # nothing is unpickled
    except (OSError, ValueError) as error:
        raise BeelineError(
            f"the hub gave no model {name!r} in safetensors ({type(error).__name__}), nor is it a directory of one; "
            "check the spelling, and the network if it is a hub id; weights that are pickles are not read"
        ) from None
    require(
        hasattr(net.config, "image_size"),
        f"{name} is a {type(net).__name__}, which takes no pictures; name a vision model, such as "
        "facebook/dinov2-small",
    )
    return net.eval().requires_grad_(False)
