"""Attention in which similar tokens are merged."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.declared import TokenGrid
from beeline.core.errors import require
from beeline.networks.attending.mode import AttentionMode, ImageAttention


class Groups(NamedTuple):
    """A partition of tokens into groups, for every sample."""

    owner: Tensor  # [B,N] int64: the group of every token
    size: Tensor  # [B,M]: the number of tokens in every group

    def of_rows(self, rows: int) -> Groups:
        """The groups of a batch with a multiple of the rows, such as of both predictions of guidance."""
        n = rows // len(self.owner)
        return Groups(self.owner.repeat(n, 1), self.size.repeat(n, 1)) if n > 1 else self


def merge(x: Tensor, groups: Groups) -> Tensor:
    """The means of the groups [B,H,M,D] of tokens [B,H,N,D]."""
    index = groups.owner[:, None, :, None].expand_as(x)
    sums = x.new_zeros(*x.shape[:2], groups.size.shape[1], x.shape[3]).scatter_add(2, index, x)
    return sums / groups.size[:, None, :, None].to(x.dtype)


def unmerge(y: Tensor, groups: Groups) -> Tensor:
    """Every token [B,H,N,D] with the value of its group, of [B,H,M,D]."""
    return y.gather(2, groups.owner[:, None, :, None].expand(-1, y.shape[1], -1, y.shape[3]))


def grouped(tokens: Tensor, score: Tensor, destinations: int, merged: int) -> Groups:
    """Groups of the tokens [B,N,C]: the ``merged`` ones that are nearest to a destination join it, others are alone.

    The destinations of a sample are the tokens with the highest ``score`` [B,N].  Raises ValueError unless
    0 <= merged <= N - destinations.
    """
    b, n, _ = tokens.shape
    require(
        1 <= destinations <= n and 0 <= merged <= n - destinations,
        f"{merged} of {n} tokens were to be merged into {destinations} destinations; destinations themselves are not "
        "merged: give a smaller share of merged tokens, or of destinations",
    )
    order = score.argsort(dim=1, descending=True, stable=True)
    to, rest = order[:, :destinations], order[:, destinations:]
    at = lambda index: tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))  # noqa: E731
    away, nearest = torch.cdist(at(rest).float(), at(to).float(), compute_mode=EXACT).min(2)
    by = away.argsort(dim=1, stable=True)
    joining, alone = rest.gather(1, by[:, :merged]), rest.gather(1, by[:, merged:])
    numbers = torch.arange(n - merged, device=tokens.device).expand(b, -1)
    owner = torch.empty(b, n, dtype=torch.int64, device=tokens.device)
    owner = owner.scatter(1, torch.cat([to, alone], 1), numbers)
    owner = owner.scatter(1, joining, nearest.gather(1, by[:, :merged]))
    ones = torch.ones_like(owner)
    return Groups(owner, torch.zeros_like(numbers).scatter_add(1, owner, ones))


EXACT = "donot_use_mm_for_euclid_dist"  # distances of equal tokens are 0


def merged_attention(q: Tensor, k: Tensor, v: Tensor, groups: Groups, first: int, **options: Any) -> Tensor:
    """Attention [B,H,L,D] in which the tokens first .. first + N - 1 are the means of their groups.

    y_i = softmax_g(q_g(i) k_g' / sqrt(D) + ln size_g) v_g
    This equals attention in which every token has the queries, keys and values of its group.
    """
    last = first + groups.owner.shape[1]
    q, k, v = (torch.cat([x[:, :, :first], merge(x[:, :, first:last], groups), x[:, :, last:]], 2) for x in (q, k, v))
    bias = F.pad(groups.size.to(q.dtype).log(), (first, q.shape[2] - first - groups.size.shape[1]))
    y = F.scaled_dot_product_attention(q, k, v, bias[:, None, None].expand(-1, 1, q.shape[2], -1), **options)
    inner = y[:, :, first : first + groups.size.shape[1]]
    return torch.cat([y[:, :, :first], unmerge(inner, groups), y[:, :, first + inner.shape[2] :]], 2)


class MergedAttention(AttentionMode):
    """Merges tokens in every attention over all tokens of an image, inside its context and thread."""

    def __init__(self, groups: Groups, grid: TokenGrid):
        super().__init__(functools.partial(_merged, groups), grid)


def _merged(groups: Groups, a: ImageAttention) -> Tensor:
    require(
        a.mask is None,
        "tokens were to be merged in attention with a mask, whose merged form is undefined; use a network without "
        "masks, or no merging",
    )
    return merged_attention(a.q, a.k, a.v, groups.of_rows(len(a.q)), a.image.start, **a.options)
