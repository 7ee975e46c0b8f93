"""Scenes of 8 x 8 pixels whose distribution is known: a square of 2 x 2 pixels at one of 49 places, or none, before
one of four backgrounds, with Gaussian noise on every pixel. The velocity is exact: that of the mixture of all scenes.
The condition is 1 for a scene with an object, 0 for one without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl

SIDE, SIZE, STD = 8, 2, 0.15
PLACES = SIDE - SIZE + 1


def backgrounds() -> Tensor:
    """[4,8,8] stripes of two widths in both directions."""
    at = torch.arange(SIDE)
    rows = [((at // width) % 2 * 1.0 - 0.5).expand(SIDE, SIDE) for width in (1, 2)]
    return torch.stack([*rows, *(row.T for row in rows)])


def scene(background: int, row: int | None = None, column: int = 0) -> Tensor:
    """The mean [1,8,8] of a scene with the object at a place, or without it."""
    made = backgrounds()[background].clone()
    if row is not None:
        made[row : row + SIZE, column : column + SIZE] = 2.0
    return made[None]


EMPTY = torch.stack([scene(b) for b in range(4)])
FULL = torch.stack([scene(b, r, c) for b in range(4) for r in range(PLACES) for c in range(PLACES)])


def mask(row: int, column: int) -> Tensor:
    """The pixels [8,8] of the object at a place."""
    made = torch.zeros(SIDE, SIDE)
    made[row : row + SIZE, column : column + SIZE] = 1
    return made


def velocity(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """The exact velocity; a condition [B] of 1 is scenes with an object, 0 those without."""
    means = torch.cat([EMPTY, FULL]).flatten(1).to(x)
    flat, t = x.flatten(1), t.view(-1, 1)
    spread = t**2 * STD**2 + (1 - t) ** 2
    logits = -(flat[:, None] - t[:, None] * means).square().sum(2) / (2 * spread)
    full = torch.arange(len(means), device=x.device) >= len(EMPTY)
    allowed = full[None] == (cond.view(-1, 1).to(x) > 0.5)
    mean = logits.masked_fill(~allowed, -torch.inf).softmax(1) @ means
    return (mean + (t * STD**2 - (1 - t)) / spread * (flat - t * mean)).view_as(x)


def flow() -> Any:
    return bl.Flow(velocity)


def nearest(x: Tensor) -> Tensor:
    """The index of the nearest scene of ``EMPTY`` and ``FULL`` [B]."""
    return torch.cdist(x.flatten(1), torch.cat([EMPTY, FULL]).flatten(1)).argmin(1)


def index(background: int, row: int, column: int) -> int:
    return len(EMPTY) + (background * PLACES + row) * PLACES + column
