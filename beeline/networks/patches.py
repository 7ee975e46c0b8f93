"""Conversion between data on a grid and patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor


def to_patches(x: Tensor, patch: int) -> Tensor:
    """[B,C,*sides] -> [B, patches, C patch^axes], row by row, padded with zeros to multiples of the patch."""
    sides, axes = x.shape[2:], x.ndim - 2
    counts = [-(-side // patch) for side in sides]
    if any(n * patch != side for n, side in zip(counts, sides, strict=True)):
        ends = [(0, n * patch - side) for n, side in zip(counts, sides, strict=True)]
        x = F.pad(x, [number for pair in reversed(ends) for number in pair])
    x = x.reshape(len(x), x.shape[1], *(number for n in counts for number in (n, patch)))
    grid, inside = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    return x.permute(0, *grid, 1, *inside).flatten(1, axes).flatten(2)


def from_patches(tokens: Tensor, shape: Sequence[int], patch: int) -> Tensor:
    """[B, patches, C patch^axes] -> [B, *shape], without the padding; the opposite of ``to_patches``."""
    channels, *sides = shape
    axes = len(sides)
    counts = [-(-side // patch) for side in sides]
    x = tokens.reshape(len(tokens), *counts, channels, *[patch] * axes)
    pairs = (place for a in range(axes) for place in (1 + a, 2 + axes + a))
    x = x.permute(0, 1 + axes, *pairs).reshape(len(tokens), channels, *(n * patch for n in counts))
    inside = (slice(None), slice(None), *(slice(side) for side in sides))
    return x[inside].contiguous()
