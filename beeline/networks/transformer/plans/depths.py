"""Plans in which some of the tokens skip a block."""

from __future__ import annotations

import math
from dataclasses import field

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn
from torch.autograd import forward_ad

from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import dataclass
from beeline.networks.fp32 import layer_norm, zeroed
from beeline.networks.transformer.layout import Layout, Notes
from beeline.networks.transformer.plans.plan import Around, Inner, Plain, Plan, Visiting
from beeline.networks.transformer.plans.subset import Portion


class Routed(Around):
    """Visits that only some tokens make."""

    scattered = True

    def __init__(self, inner: Visiting, at: tuple[int, ...], width: int, keep: float):
        super().__init__(inner, at)
        self.keep = keep
        self.route = zeroed(nn.Linear(width, 2))  # one for all visits

    def changed(self, k: int, inner: Inner, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        n = layout.tokens
        few = math.ceil(self.keep * n - 1e-9)
        if few == n:
            return inner(h, layout)
        logits = wide(self.route(layer_norm(h[:, :n])))
        p = torch.softmax(logits, -1)[..., 1]
        index = p.argsort(dim=1, descending=True, stable=True)[:, :few].sort(1).values
        given = torch.cat([at_tokens(h, index), h[:, n:]], 1)
        out, notes = inner(given, layout.of_tokens(index))
        change = out[:, :few] - given[:, :few]
        if forward_ad._current_level < 0:  # a factor of 1, whose derivative is for the router alone
            chance = p.gather(1, index)[..., None]
            change = change * (chance / chance.detach()).to(h.dtype)
        moved = h[:, :n].scatter(1, wide_index(index, h), given[:, :few] + change)
        if layout.noting:
            chosen = torch.zeros_like(p).scatter(1, index, 1.0)
            loss = F.cross_entropy(logits.flatten(0, 1), chosen.flatten().long())
            notes = {**notes, "depth": loss}
        return torch.cat([moved, out[:, few:]], 1), notes


@dataclass(frozen=True)
class Depths:
    """Mixture of depths: in some visits a router lets a share of the tokens through the block, the others skip it.

    h_i <- h_i + (block(chosen tokens)_i - h_i) p_i / sg(p_i) for the tokens with the largest p = softmax(R norm(h))_2
    The choice is made inside of a sample.  Tokens of conditions never skip.  Note ``depth``: cross entropy of the
    router to its choice, a term with a weight of about 0.01.
    Source: Luo et al. 2024, "gamma-MoD" (arXiv 2410.13859); Raposo et al. 2024, "Mixture-of-Depths" (arXiv 2404.02258).

    >>> Depths(keep=0.3).at(6)
    (1, 3, 5)
    """

    keep: Portion = 0.5  # share of the tokens
    blocks: tuple[int, ...] | None = None  # numbers of visits; None is every second one
    plan: Plan = field(default_factory=Plain)  # of the visits

    def at(self, visits: int) -> tuple[int, ...]:
        """The visits that tokens can skip."""
        return tuple(range(1, visits, 2)) if self.blocks is None else self.blocks

    def visits(self, blocks: int) -> tuple[int, ...]:
        return self.plan.visits(blocks)

    def build(self, width: int, visits: int) -> Visiting:
        return Routed(self.plan.build(width, visits), checked(self.at(visits), visits, "Depths"), width, self.keep)


def checked(at: tuple[int, ...], visits: int, whose: str) -> tuple[int, ...]:
    """The numbers of visits; raises ValueError for those that are not made."""
    require(
        all(0 <= k < visits for k in at),
        f"{whose} got blocks={at} for a network that makes {visits} visits; they are numbered from 0: give some of 0 "
        f"to {visits - 1}",
    )
    return at


def wide_index(index: Tensor, h: Tensor) -> Tensor:
    """An index of tokens [B,M] for all channels."""
    return index[..., None].expand(-1, -1, h.shape[-1])


def at_tokens(h: Tensor, index: Tensor) -> Tensor:
    """The tokens [B,M,D] of h [B,N,D] at an index [B,M]."""
    return h.gather(1, wide_index(index, h))


def entropy_rank(maps: Tensor) -> Tensor:
    """The effective number of directions of matrices [...,N,N], such as attention maps: exp of an entropy, [...].

    exp(-sum_i p_i ln p_i),  p_i = s_i / sum_j s_j for the singular values s
    It is 1 for a map whose rows are equal and N for a permutation; blocks with low ranks lose least when tokens skip.
    Source: Luo et al. 2024 (arXiv 2410.13859), with an entropy in place of the numerical rank, which saturates; Roy and
    Vetterli 2007, "The effective rank".

    >>> [round(float(entropy_rank(m)), 4) for m in (torch.eye(4), torch.full((4, 4), 0.25))]
    [4.0, 1.0]
    """
    s = torch.linalg.svdvals(wide(maps))
    p = s / s.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()
