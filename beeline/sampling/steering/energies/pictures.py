"""Energies of images: colours, and features of networks."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.protocols.data import FullEncoder
from beeline.core.ranges import Positive, Share, dataclass
from beeline.core.types import Cond
from beeline.networks.hooks import captured_outputs


@dataclass(frozen=True)
class MeanColour:
    """The distance of the mean colour of an image to a given colour.

    E = |mean over pixels (x1 + 1) / 2 - colour|^2 / (2 deviation^2)
    Assumes images [B,C,H,W] in [-1, 1].

    >>> float(MeanColour((1.0, 0.0, 0.0), deviation=1.0)(-torch.ones(1, 3, 2, 2), torch.ones(1)))
    0.5
    """

    colour: tuple[Share, ...]  # one number in [0, 1] for each channel: (red, green, blue), or (grey,)
    deviation: Positive = 0.05  # in the units of the colour

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        require(
            x1.ndim == 4 and x1.shape[1] == len(self.colour),
            f"MeanColour got {len(self.colour)} channels for data of shape {tuple(x1.shape)}; it compares images "
            "[B,C,H,W] channel by channel: give one number for each channel, and use Decoded for latents",
        )
        mean = (x1.mean((2, 3)) + 1) / 2
        return (mean - mean.new_tensor(self.colour)).square().sum(1) / (2 * self.deviation**2)


@dataclass(frozen=True)
class FeatureDistance:
    """The distance of the features of an encoder to those of given data.

    E = 1 - cos(f(x1), f),  f the mean of f(x) over the given data, f(x) = encoder.pooled(x);  times ``weight``
    Assumes an encoder that is differentiable in its input, as those of the catalogue are.

    >>> from beeline.objectives.losses.encoders import RandomFeatures
    >>> x = torch.ones(1, 4)
    >>> abs(round(float(FeatureDistance(RandomFeatures(8), x)(x, torch.ones(1))), 5))
    0.0
    """

    encoder: FullEncoder
    target: Any  # encoded data: [*S], or several [N,*S]: a tensor or nested lists
    weight: Positive = 10.0  # 1 / weight is the difference of cosines that counts

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        target = batch_of(self.target, x1, "FeatureDistance")
        with torch.no_grad():
            wanted = self.encoder.pooled(target).mean(0, keepdim=True)
        return self.weight * (1 - nn.functional.cosine_similarity(self.encoder.pooled(x1), wanted)).to(x1)


@dataclass(frozen=True)
class PerceptualDistance:
    """The distance of features of a network at several layers to those of a given datum.

    E = weight sum_l mean over positions |h_l(x1) / |h_l(x1)| - h_l / |h_l||^2,  norms over channels, h_l those of the
    target at layer l
    Assumes a network of clean data; layers are named as by ``named_modules``.
    Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
    (arXiv 1801.03924), without its learned weights.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    >>> x = torch.ones(1, 1, 8, 8)
    >>> float(PerceptualDistance(net, ("0", "2"), x)(x, torch.ones(1)).detach())
    0.0
    """

    network: nn.Module
    layers: tuple[str, ...]
    target: Any  # an encoded datum [*S]: a tensor or nested lists
    weight: Positive = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        require(len(self.layers) > 0, "PerceptualDistance got no layers; name at least one module of the network")

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        target = batch_of(self.target, x1, "PerceptualDistance")[:1]
        with torch.no_grad():
            wanted = self._features(target)
        parts = [
            (a - b).square().flatten(1).mean(1) * a.shape[1] for a, b in zip(self._features(x1), wanted, strict=True)
        ]
        return self.weight * torch.stack(parts).sum(0).to(x1)

    def _features(self, x: Tensor) -> list[Tensor]:
        """The normalised features of every layer."""
        with contextlib.ExitStack() as hooks:
            seen = [hooks.enter_context(captured_outputs(self.network, layer)) for layer in self.layers]
            self.network(x)
        return [nn.functional.normalize(outputs[-1], dim=1) for outputs in seen]


def batch_of(target: Any, x1: Tensor, whose: str) -> Tensor:
    """Given data as a batch [N,*S] in the dtype and on the device of ``x1`` [B,*S]."""
    found = torch.as_tensor(target, dtype=x1.dtype, device=x1.device)
    found = found[None] if found.ndim == x1.ndim - 1 else found
    require(
        found.ndim == x1.ndim and found.shape[1:] == x1.shape[1:] and len(found) > 0,
        f"{whose} got a target of shape {tuple(found.shape)} for samples of shape {tuple(x1.shape)}; features are "
        f"compared of data of one shape: give encoded data of shape {tuple(x1.shape[1:])}",
    )
    return found
