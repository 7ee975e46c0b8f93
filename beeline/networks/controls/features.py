"""Controls whose features depend on the hint alone: they are computed once for all steps of a sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import Stages
from beeline.core.modes import wide
from beeline.core.ranges import Count, Whole, dataclass
from beeline.networks.controls.control import Ask, Control, ControlModule, PlacedModule, added, adding, places_of
from beeline.networks.fp32 import zeroed
from beeline.networks.patches import to_patches
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.layout import After

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)  # by the number of axes


class HintEncoder(nn.Module):
    """Residual convolutions over the patches of a hint; the features of every stage [B,N,width]."""

    def __init__(self, net: FlowTransformer, channels: int, width: int, stages: int):
        super().__init__()
        self.patch, self.grid_of = net.patch, net.grid_of
        convolution = CONVOLUTIONS[len(net.grid) - 1]
        self.inp = nn.Linear(channels * net.patch ** len(net.grid), width)
        self.stage = nn.ModuleList(
            nn.Sequential(convolution(width, width, 3, padding=1), nn.SiLU(), convolution(width, width, 1))
            for _ in range(stages)
        )

    def forward(self, hint: Tensor) -> list[Tensor]:
        u, found = self.inp(to_patches(hint, self.patch)), []
        for stage in self.stage:
            grid = u.mT.unflatten(2, self.grid_of(hint.shape[2:]))
            u = u + stage(F.silu(grid)).flatten(2).mT
            found.append(u)
        return found


class Features(PlacedModule):
    """Features of a hint that are added to tokens after some visits."""

    def __init__(self, net: FlowTransformer, channels: int, width: int, places: Sequence[int]):
        super().__init__()
        self.places = tuple(places)
        self.encoder = HintEncoder(net, channels, width, len(self.places))
        self.out = nn.ModuleList(zeroed(nn.Linear(width, net.settings["width"])) for _ in self.places)

    def read(self, hint: Tensor, ask: Ask) -> list[Tensor]:
        return [out(u) for out, u in zip(self.out, self.encoder(hint), strict=True)]

    def act(self, read: list[Tensor], stages: Stages, gain: Tensor) -> tuple[Stages, After]:
        after = {k: added(f, gain) for k, f in zip(self.places, read, strict=True)}
        return stages, after


@dataclass(frozen=True)
class T2IAdapter(Control):
    """A small convolutional network of the hint, whose features are added at evenly spaced visits.

    h_k <- h_k + strength Z_k F_k(hint),  Z_k = 0 at first
    F does not depend on state or time, so it is evaluated once for all steps of a sampler.
    Source: Mou et al. 2023, "T2I-Adapter" (arXiv 2302.08453), whose last layers do not start at zero.

    >>> T2IAdapter(width=32)
    T2IAdapter(width=32, taps=4)
    """

    width: Count = 64  # channels of the features
    taps: Count = 4  # visits of blocks, or all where there are fewer

    def build(self, net: FlowTransformer, channels: int, name: str) -> Features:
        count = len(net.visits)
        taps = min(self.taps, count)
        return Features(net, channels, self.width, [i * count // taps for i in range(taps)])


class CrossNormalized(ControlModule):
    """Features of a hint with mean and deviation of the tokens to which they are added."""

    def __init__(self, net: FlowTransformer, channels: int, width: int, place: int):
        super().__init__()
        self.place = place
        self.encoder = HintEncoder(net, channels, width, 2)
        self.out = nn.Linear(width, net.settings["width"])
        self.amount = nn.Parameter(torch.zeros(()))

    def read(self, hint: Tensor, ask: Ask) -> Tensor:
        features: Tensor = self.out(self.encoder(hint)[-1])
        return features

    def act(self, read: Tensor, stages: Stages, gain: Tensor) -> tuple[Stages, After]:
        return stages, {self.place: adding(lambda own: self.amount * cross_normalized(read, own), gain)}


def cross_normalized(c: Tensor, h: Tensor) -> Tensor:
    """Features with mean and deviation of others, both over tokens and channels of every row."""
    c, h = wide(c), wide(h)
    (s, m), (d, a) = (torch.std_mean(y, (1, 2), correction=0, keepdim=True) for y in (c, h))
    return (c - m) * (d / (s + 1e-6)) + a


@dataclass(frozen=True)
class ControlNeXt(Control):
    """A small convolutional network of the hint, added at one visit after cross normalisation.

    h <- h + strength g ((c - mean c) std h / std c + mean h),  c = W F(hint),  g = 0 at first
    Moments are those of all tokens and channels of a row.  The paper has g = 1, so that it starts with a change, and
    trains a few weights of the network as well; here it starts as the network, and a LoRA may be trained beside it.
    Source: Peng et al. 2024, "ControlNeXt: Powerful and Efficient Control" (arXiv 2408.06070).

    >>> ControlNeXt()
    ControlNeXt(width=64, place=0)
    """

    width: Count = 64  # channels of the features
    place: Whole = 0  # the number of the visit after which they are added

    def build(self, net: FlowTransformer, channels: int, name: str) -> CrossNormalized:
        return CrossNormalized(net, channels, self.width, *places_of(net, (self.place,), self))
