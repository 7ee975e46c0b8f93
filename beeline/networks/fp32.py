"""The parts of a network that compute in float32 (or better), whatever the dtype of its parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.modes import full_precision, wide


class WideLinear(nn.Linear):
    """A linear layer on float32 numbers, for embeddings of time.

    y = W x + b in float32, or float64 where the parameters or x are
    Assumes few rows (one per sample), so that the width costs nothing; autocast does not narrow it.
    Source: none.

    >>> WideLinear(2, 3).to(torch.bfloat16)(torch.zeros(1, 2)).dtype
    torch.float32
    """

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(wide(x).dtype, self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        with full_precision(x.device):
            return F.linear(x.to(dtype), self.weight.to(dtype), bias)


class WideGroupNorm(nn.GroupNorm):
    """Group normalisation in float32.

    y = gain (x - mean) / std + shift over groups of channels
    Assumes [B, channels, *S]; the result has the dtype of x.
    Source: Wu and He 2018 (arXiv 1803.08494).

    >>> WideGroupNorm(2, 4).to(torch.bfloat16)(torch.zeros(1, 4, 3, 3, dtype=torch.bfloat16)).dtype
    torch.bfloat16
    """

    def forward(self, x: Tensor) -> Tensor:
        h = wide(x)
        made = F.group_norm(h, self.num_groups, self.weight.to(h.dtype), self.bias.to(h.dtype), self.eps)
        return made.to(x.dtype)


def layer_norm(x: Tensor) -> Tensor:
    """``x`` [..., D] normalised over its last dimension in float32, without gain or shift; the dtype of x."""
    return F.layer_norm(wide(x), x.shape[-1:], eps=1e-6).to(x.dtype)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """``gain`` x / rms(x) over the last dimension in float32; the dtype of x."""
    h = wide(x)
    return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6) * gain.to(h.dtype)).to(x.dtype)


def norm_groups(channels: int, most: int = 8) -> int:
    """The largest number of groups up to ``most`` that divides ``channels``."""
    return max(n for n in range(1, most + 1) if channels % n == 0)


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The layer with all parameters zero, so that what it feeds starts from nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
