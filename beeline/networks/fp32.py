"""Layers that compute in float32 or float64, independently of the dtype of their parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.modes import full_precision, wide


class WideLinear(nn.Linear):
    """A linear layer in float32, for time embeddings; autocast does not apply to it.

    y = W x + b in float32, or in float64 if the parameters or x are

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
    Takes [B, channels, *S]; the result has the dtype of x.
    Source: Wu and He 2018 (arXiv 1803.08494).

    >>> WideGroupNorm(2, 4).to(torch.bfloat16)(torch.zeros(1, 4, 3, 3, dtype=torch.bfloat16)).dtype
    torch.bfloat16
    """

    def forward(self, x: Tensor) -> Tensor:
        h = wide(x)
        return F.group_norm(h, self.num_groups, self.weight.to(h.dtype), self.bias.to(h.dtype), self.eps).to(x.dtype)


def layer_norm(x: Tensor) -> Tensor:
    """Layer normalisation of ``x`` [..., D] in float32, without gain and shift; the result has the dtype of x."""
    return F.layer_norm(wide(x), x.shape[-1:], eps=1e-6).to(x.dtype)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """``gain`` x / rms(x) over the last dimension in float32; the result has the dtype of x."""
    h = wide(x)
    return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6) * gain.to(h.dtype)).to(x.dtype)


def norm_groups(channels: int, most: int = 8) -> int:
    """The largest divisor of ``channels`` up to ``most``, as a number of groups."""
    return max(n for n in range(1, most + 1) if channels % n == 0)


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set all parameters of a layer to zero and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
