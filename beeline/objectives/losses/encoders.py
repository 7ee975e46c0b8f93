"""Frozen encoders of clean data, for feature distances and representation alignment."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.files import digest
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng


class EncoderBase:
    """Defaults of the FullEncoder protocol: identified by its settings, pooled by the mean over tokens.

    A subclass gives ``name`` and ``__call__``.
    """

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def hash(self) -> str:
        return digest({}, repr(self))

    def pooled(self, x: Tensor) -> Tensor:
        h = self(x)
        return h.flatten(1, -2).mean(1) if h.ndim > 2 else h


@dataclass(frozen=True)
class RandomFeatures(EncoderBase):
    """Features of a frozen network with random weights, given by a seed.

    images: two 3 x 3 convolutions of stride 2, averaged over positions; other data: W2 silu(W1 x)
    They hold no more than the data do: a pretrained encoder usually helps more.
    Source: Rahimi and Recht 2007, random features.

    >>> RandomFeatures(16)(torch.zeros(4, 1, 8, 8)).shape
    torch.Size([4, 16])
    """

    size: int = 64  # features, 16 to 512
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.size} random features"

    def __post_init__(self) -> None:
        require(
            isinstance(self.size, int) and self.size >= 1,
            f"RandomFeatures got size={self.size!r}; it is a number of features: give 1 or more (64 is usual)",
        )

    def __call__(self, x: Tensor) -> Tensor:
        features: Tensor = random_network(tuple(x.shape[1:]), self.size, self.seed, x.device, x.dtype)(x)
        return features.flatten(2).mean(2) if features.ndim > 2 else features


@functools.lru_cache(maxsize=8)
def random_network(shape: tuple[int, ...], size: int, seed: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of RandomFeatures for data of a shape, cached."""
    with Rng(seed).fork("random features", *shape).ambient():
        if len(shape) == 3:
            first, last = nn.Conv2d(shape[0], size, 3, 2, 1), nn.Conv2d(size, size, 3, 2, 1)
            network = nn.Sequential(first, nn.SiLU(), last)
        else:
            layers = nn.Linear(math.prod(shape), 4 * size), nn.SiLU(), nn.Linear(4 * size, size)
            network = nn.Sequential(nn.Flatten(), *layers)
    return network.requires_grad_(False).to(device, dtype)


def tokens(h: Tensor) -> Tensor:
    """Feature maps [B,d,H,W] as tokens [B,HW,d]; other features are returned as they are."""
    return h.flatten(2).transpose(1, 2) if h.ndim == 4 else h
