"""Attention inside of groups of tokens, and what joins the groups."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from beeline.core.errors import require
from beeline.networks.attention import attend
from beeline.networks.transformer.layout import Layout

Cut = Callable[[Tensor], Tensor]
"""Tokens [B,H,N,d] -> groups [B,H,G,n,d], with zeros where a group is not full."""


def check_grid(layout: Layout, axes: int | None = None) -> None:
    """Raise BeelineError for rows of several data, and for tokens that are no grid of ``axes`` axes."""
    require(
        layout.segments is None,
        "a mixer of groups or of a grid got rows that hold several data; it needs the grid of one: use "
        "mixer=Attention()",
    )
    require(
        axes is None or len(layout.grid) == axes,
        f"a mixer of a grid of {axes} axes got a list of {layout.tokens} tokens; a plan that merges them or leaves "
        "some out has no grid: use mixer=Attention() or another attention without windows",
    )


def in_groups(
    q: Tensor, k: Tensor, v: Tensor, real: Tensor | None = None, others: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Softmax attention [B,H,G,m,d] of queries [B,H,G,m,d] to the keys and values [B,H,G,n,d] of their group.

    ``others`` are keys and values [B,H,M,d] that every group sees too; ``real`` is bool, [B or 1, H or 1, G, 1, n + M].
    """
    if others is not None:
        k, v = (
            torch.cat([y, more[:, :, None].expand(-1, -1, y.shape[2], -1, -1)], 3)
            for y, more in zip((k, v), others, strict=True)
        )
    groups = q.shape[2]
    if real is not None:  # a group of padding sees itself; it is cut off again
        real = (real | ~real.any(-1, keepdim=True)).expand(len(q), -1, -1, -1, -1)
    q, k, v = (y.transpose(1, 2).flatten(0, 1) for y in (q, k, v))
    mixed = attend(q, k, v, None if real is None else real.transpose(1, 2).flatten(0, 1))
    return mixed.unflatten(0, (-1, groups)).transpose(1, 2)


def apart(q: Tensor, k: Tensor, v: Tensor, layout: Layout, cut: Cut, joined: Cut) -> Tensor:
    """Attention of the tokens of the datum inside of groups; tokens after them are seen by all groups and see all.

    q, k and v are [B,H,all tokens,d].
    """
    n = layout.tokens
    more = q.shape[2] > n
    f, g, u = (cut(y[:, :, :n]) for y in (q, k, v))
    mixed = joined(in_groups(f, g, u, seen(layout, cut, q), (k[:, :, n:], v[:, :, n:]) if more else None))
    return torch.cat([mixed, attend(q[:, :, n:], k, v, layout.mask)], 2) if more else mixed


def seen(layout: Layout, cut: Cut, like: Tensor) -> Tensor | None:
    """Which keys of its group and of others a query may see, for ``in_groups``; None for all of them."""
    check_grid(layout)
    n, heads, total = layout.tokens, like.shape[1], like.shape[2]
    keep = layout.keep
    own = torch.ones(1, heads, n, 1, dtype=torch.bool, device=like.device)
    if keep is not None:
        own = keep[:, None, :n, None].expand(-1, heads, -1, -1)
    real = cut(own).mT  # [B or 1,H,G,1,n']
    if keep is None and real[0, 0].numel() == n:
        return None
    rest = real.new_ones(1, total - n) if keep is None else keep[:, n:]
    wanted = (max(len(real), len(rest)), *real.shape[1:-1])
    return torch.cat([real.expand(*wanted, -1), rest[:, None, None, None].expand(*wanted, -1)], -1)


def runs(count: int, dealt: int = 0) -> tuple[Cut, Cut]:
    """Cutting tokens in ``count`` runs of equal length, and the inverse for tokens of the datum.

    The last ``dealt`` heads are dealt instead: token i is in group i modulo ``count``.
    """

    def cut(y: Tensor) -> Tensor:
        length = -(-y.shape[2] // count)
        y = F.pad(y, (0, 0, 0, count * length - y.shape[2]))
        kept = y.shape[1] - dealt
        first = y[:, :kept].unflatten(2, (count, length))
        return torch.cat([first, y[:, kept:].unflatten(2, (length, count)).transpose(2, 3)], 1)

    def joined(y: Tensor) -> Tensor:
        kept = y.shape[1] - dealt
        return torch.cat([y[:, :kept].flatten(2, 3), y[:, kept:].transpose(2, 3).flatten(2, 3)], 1)

    return cut, joined


def tiles(grid: tuple[int, ...], window: int) -> tuple[Cut, Cut]:
    """Cutting a grid of tokens in windows of at most ``window`` along every axis, and the inverse."""
    axes = len(grid)
    sides = [min(window, n) for n in grid]
    counts = [-(-n // w) for n, w in zip(grid, sides, strict=True)]
    padding = [
        0,
        0,
        *itertools.chain(*((0, c * w - n) for n, w, c in list(zip(grid, sides, counts, strict=True))[::-1])),
    ]
    every = [2 + 2 * a for a in range(axes)], [3 + 2 * a for a in range(axes)]
    order = [0, 1, *every[0], *every[1], 2 + 2 * axes]
    back = [order.index(i) for i in range(len(order))]

    def cut(y: Tensor) -> Tensor:
        split = itertools.chain(*zip(counts, sides, strict=True))
        y = F.pad(y.unflatten(2, grid), padding)
        y = y.reshape(*y.shape[:2], *split, y.shape[-1]).permute(order)
        return y.flatten(2, 1 + axes).flatten(3, -2)

    def joined(y: Tensor) -> Tensor:
        y = y.unflatten(3, sides).unflatten(2, counts).permute(back)
        y = y.reshape(*y.shape[:2], *(c * w for c, w in zip(counts, sides, strict=True)), y.shape[-1])
        for axis, n in enumerate(grid):
            y = y.narrow(2 + axis, 0, n)
        return y.flatten(2, 1 + axes)

    return cut, joined
