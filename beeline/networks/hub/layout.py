"""Layouts of latents: tokens of patches, and integer positions."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(x: Tensor, p: int = 2) -> Tensor:
    """[B,C,H,W] as tokens [B, H/p W/p, C p p], one per patch; channels vary slowest inside a token."""
    b, c, h, w = x.shape
    return x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


def unpack(tokens: Tensor, h: int, w: int, p: int = 2) -> Tensor:
    """The inverse of ``pack``: tokens [B, h/p w/p, C p p] as [B,C,h,w]."""
    b, _, d = tokens.shape
    c = d // (p * p)
    return tokens.view(b, h // p, w // p, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def positions(*sizes: int, before: int = 0, after: int = 0, like: Tensor) -> Tensor:
    """Integer coordinates [prod(sizes), before + len(sizes) + after] of a grid, with zeros before and after them."""
    grid = torch.cartesian_prod(*[torch.arange(n, device=like.device) for n in sizes]).reshape(-1, len(sizes))
    return torch.nn.functional.pad(grid.to(like.dtype), (before, after))
