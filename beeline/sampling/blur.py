"""Gaussian blur of images and maps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor


def gaussian_blur(x: Tensor, deviation: float, reach: int | None = None) -> Tensor:
    """``x`` [...,H,W] after a Gaussian blur over the last two axes, with reflection at the edges.

    ``deviation`` is in pixels; 0 changes nothing.  The kernel has 2 reach + 1 entries, by default up to three
    deviations, and at most those of an axis; its sum is 1.

    >>> bool(torch.allclose(gaussian_blur(torch.ones(4, 4), 2.0), torch.ones(4, 4)))
    True
    """
    if deviation == 0:
        return x
    reach = math.ceil(3 * deviation) if reach is None else reach
    flat = x.reshape(-1, 1, *x.shape[-2:])
    for axis in (2, 3):
        r = min(reach, flat.shape[axis] - 1)
        at = torch.arange(-r, r + 1, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        kernel = torch.softmax(-at.square() / (2 * deviation**2), 0).to(x.dtype)
        pad = [0, 0, r, r] if axis == 2 else [r, r, 0, 0]
        flat = F.conv2d(F.pad(flat, pad, mode="reflect"), kernel.view(1, 1, *((-1, 1) if axis == 2 else (1, -1))))
    return flat.view(x.shape)
