"""Conversion between images and patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor


def to_patches(x: Tensor, patch: int) -> Tensor:
    """[B,C,H,W] -> [B, patches, C patch^2], padded with zeros to a multiple of the patch."""
    _, channels, height, length = x.shape
    rows, columns = -(-height // patch), -(-length // patch)
    if (rows * patch, columns * patch) != (height, length):
        x = F.pad(x, (0, columns * patch - length, 0, rows * patch - height))
    x = x.reshape(-1, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, rows * columns, channels * patch * patch)


def from_patches(tokens: Tensor, shape: Sequence[int], patch: int) -> Tensor:
    """[B, patches, C patch^2] -> [B,C,H,W], without the padding."""
    channels, height, length = shape
    rows, columns = -(-height // patch), -(-length // patch)
    x = tokens.reshape(-1, rows, columns, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, channels, rows * patch, columns * patch)[:, :, :height, :length].contiguous()
