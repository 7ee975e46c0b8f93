"""Frozen encoders of clean data, which alignment compares hidden features with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng

Encoder = Callable[[Tensor], Tensor]
"""Clean data [B,*S] -> features [B,d], or [B,tokens,d]; frozen."""


@dataclass(frozen=True)
class RandomFeatures:
    """A network with random weights that never learn: it needs nothing but a seed, and keeps what the data look like.

    pictures: two convolutions of 3 x 3 with stride 2, averaged over the places; other data: W2 silu(W1 x)
    Assumes nothing.  It knows no more than the data: an encoder that was trained on more helps more.
    Source: none; random features as of Rahimi and Recht 2007.

    >>> RandomFeatures(16)(torch.zeros(4, 1, 8, 8)).shape
    torch.Size([4, 16])
    """

    size: int = 64  # features, 16 to 512
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            isinstance(self.size, int) and self.size >= 1,
            f"RandomFeatures got size={self.size!r}; it makes one feature or more: 64 is usual",
        )

    def __call__(self, x: Tensor) -> Tensor:
        made: Tensor = random_network(tuple(x.shape[1:]), self.size, self.seed, x.device, x.dtype)(x)
        return made.flatten(2).mean(2) if made.ndim > 2 else made


@functools.lru_cache(maxsize=8)
def random_network(shape: tuple[int, ...], size: int, seed: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of RandomFeatures for data of a shape; kept, and never moved again."""
    with Rng(seed).fork("random features", *shape).ambient():
        if len(shape) == 3:
            first, last = nn.Conv2d(shape[0], size, 3, 2, 1), nn.Conv2d(size, size, 3, 2, 1)
            made = nn.Sequential(first, nn.SiLU(), last)
        else:
            layers = nn.Linear(math.prod(shape), 4 * size), nn.SiLU(), nn.Linear(4 * size, size)
            made = nn.Sequential(nn.Flatten(), *layers)
    return made.requires_grad_(False).to(device, dtype)


def tokens(h: Tensor) -> Tensor:
    """Features with the places of a picture [B,d,H,W] as tokens [B,HW,d]; others as they are."""
    return h.flatten(2).transpose(1, 2) if h.ndim == 4 else h
