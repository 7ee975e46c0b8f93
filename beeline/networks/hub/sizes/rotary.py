"""Frequencies of rotary position embeddings at sizes beyond those of training."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Count, Positive, dataclass


class Rotary(Protocol):
    """Frequencies [width / 2] of one axis in radians per token, and the factor of all cosines and sines.

    ``like`` gives the dtype and the device.  Logits of attention are multiplied by the square of ``scale``.
    """

    def frequencies(self, width: int, theta: float, like: Tensor) -> Tensor: ...

    @property
    def scale(self) -> float: ...


@dataclass(frozen=True)
class PositionInterpolation:
    """Positions divided by a factor, so that all of them are inside the trained range.

    w_i = theta^(-2 i / width) / factor
    Source: Chen et al. 2023, "Extending Context Window via Positional Interpolation" (arXiv 2306.15595).

    >>> PositionInterpolation(2.0).frequencies(4, 100.0, torch.zeros(1))
    tensor([0.5000, 0.0500])
    """

    factor: Positive  # side of the samples over the trained side
    logits: Positive = 1.0  # factor of the logits of attention, such as ``proportional``

    def frequencies(self, width: int, theta: float, like: Tensor) -> Tensor:
        return usual_frequencies(width, theta, like) / self.factor

    @property
    def scale(self) -> float:
        return math.sqrt(self.logits)


@dataclass(frozen=True)
class NTKAware:
    """A larger base: the highest frequency stays, the lowest one is divided by the factor.

    w_i = theta'^(-2 i / width),  theta' = theta factor^(width / (width - 2))
    Source: "NTK-aware scaled RoPE", 2023; for images: Lu et al. 2024, "FiT" (arXiv 2402.12376).

    >>> NTKAware(2.0).frequencies(4, 100.0, torch.zeros(1))
    tensor([1.0000, 0.0500])
    """

    factor: Positive  # side of the samples over the trained side
    logits: Positive = 1.0  # factor of the logits of attention, such as ``proportional``

    def frequencies(self, width: int, theta: float, like: Tensor) -> Tensor:
        return usual_frequencies(width, theta * self.factor ** (width / max(width - 2, 1)), like)

    @property
    def scale(self) -> float:
        return math.sqrt(self.logits)


@dataclass(frozen=True)
class YaRN:
    """Low frequencies divided by a factor, high ones unchanged, and sharper attention.

    w_i = theta^(-2 i / width) (1 - r_i + r_i / factor),  r_i = clip((i - low) / (high - low), 0, 1)
    low = floor(c(32)), high = ceil(c(1)),  c(n) = width log(trained / (2 pi n)) / (2 log theta)
    Here c(n) is the index of the frequency that turns n times over the trained side.  Cosines and sines are multiplied
    by 1 + 0.1 log factor.
    Source: Peng et al. 2023, "YaRN" (arXiv 2309.00071).

    >>> YaRN(2.0, trained=64).frequencies(8, 100.0, torch.zeros(1))
    tensor([1.0000, 0.2635, 0.0667, 0.0158])
    """

    factor: Positive  # side of the samples over the trained side
    trained: Count  # the trained side in tokens

    def frequencies(self, width: int, theta: float, like: Tensor) -> Tensor:
        low, high = math.floor(self._index(32, width, theta)), math.ceil(self._index(1, width, theta))
        low, high = max(low, 0), min(high, width - 1)
        i = torch.arange(width // 2, dtype=like.dtype, device=like.device)
        ramp = ((i - low) / max(high - low, 1e-3)).clamp(0, 1)
        return usual_frequencies(width, theta, like) * (1 + ramp * (1 / self.factor - 1))

    def _index(self, turns: int, width: int, theta: float) -> float:
        return width * math.log(self.trained / (2 * math.pi * turns)) / (2 * math.log(theta))

    @property
    def scale(self) -> float:
        return 1 + 0.1 * math.log(self.factor)


def usual_frequencies(width: int, theta: float, like: Tensor) -> Tensor:
    """theta^(-2 i / width) for i = 0, ..., width / 2 - 1."""
    return 1.0 / (theta ** (torch.arange(0, width, 2, dtype=like.dtype, device=like.device) / width))


def proportional(tokens: int, trained: int) -> float:
    """The factor of the logits for which the entropy of attention does not grow with the number of tokens.

    sqrt(log(tokens) / log(trained))
    Source: Jin et al. 2023, "Training-free Diffusion Model Adaptation for Variable-Sized Text-to-Image Synthesis"
    (arXiv 2306.08645).

    >>> proportional(16, 2)
    2.0
    """
    require(
        tokens >= 2 and trained >= 2,
        f"proportional got {tokens} tokens and {trained} trained ones; the factor is a ratio of their logarithms: give "
        "numbers from 2",
    )
    return math.sqrt(math.log(tokens) / math.log(trained))
