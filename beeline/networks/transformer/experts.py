"""Feeds of several experts, of which a router chooses some for every token."""

from __future__ import annotations

from dataclasses import field
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import Count, dataclass
from beeline.networks.transformer.layout import Layout, Notes


class Routing(NamedTuple):
    """Which experts a token goes to."""

    chosen: Tensor  # [T,k] numbers of experts
    weight: Tensor  # [T,k] factors of their outputs
    notes: Notes


class Router(Protocol):
    """Chooses experts; ``build`` gives a module (tokens [T,D], rows [T], layout) -> Routing."""

    def build(self, width: int, experts: int) -> nn.Module:
        """The module for tokens of ``width`` channels and a number of experts."""
        ...


class Linear(nn.Module):
    """The gate of a TopK router."""

    def __init__(self, width: int, experts: int, active: int):
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.active = active

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        p = torch.softmax(wide(self.gate(h)), -1)
        weight, index = p.topk(self.active, -1)
        return Routing(index, weight / weight.sum(-1, keepdim=True), {"balance": balance(p, index)})


@dataclass(frozen=True)
class TopK:
    """The experts with the largest probabilities, which are normalised over the chosen ones.

    p = softmax(W u);  weights p_e / sum over the chosen of p;  note ``balance`` = E sum_e share_e mean p_e, 1 if even
    No expert has a capacity, so that a token does not depend on others.
    Source: Shazeer et al. 2017 (arXiv 1701.06538); the balance: Fedus, Zoph and Shazeer 2021 (arXiv 2101.03961).

    >>> TopK(2).active
    2
    """

    active: Count = 2  # experts of a token

    def build(self, width: int, experts: int) -> nn.Module:
        require(
            self.active <= experts,
            f"TopK got active={self.active} for {experts} experts; a token goes to some of them: set 1 to {experts}",
        )
        return Linear(width, experts, self.active)


def balance(p: Tensor, index: Tensor) -> Tensor:
    """E sum_e share_e mean p_e for probabilities [T,E] and chosen experts [T,k]: 1 if tokens are evenly divided."""
    count = p.shape[-1]
    share = F.one_hot(index, count).sum(1).to(p).mean(0) / index.shape[-1]
    return count * (share * p.mean(0)).sum()


class Mixture(nn.Module):
    """The experts of one block as two tensors, and their router."""

    def __init__(self, width: int, hidden: int, experts: int, router: Router, dropout: float):
        super().__init__()
        self.route = router.build(width, experts)
        self.up = nn.Parameter(torch.empty(experts, width, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        for part in (self.up, self.down):
            bound = part.shape[1] ** -0.5
            nn.init.uniform_(part, -bound, bound)  # as nn.Linear
        self.first, self.second = (nn.Parameter(torch.zeros(experts, n)) for n in (hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        tokens = h.flatten(0, 1)
        rows = torch.arange(len(h), device=h.device).repeat_interleave(h.shape[1])
        index, weight, notes = self.route(tokens, rows, layout)
        order = index.flatten().argsort(stable=True)  # all tokens of an expert beside each other
        source = order // index.shape[1]
        counts = torch.bincount(index.flatten(), minlength=len(self.up)).tolist()
        made = []
        for e, part in enumerate(tokens[source].split(counts)):  # an expert without tokens stays in the graph
            u = F.gelu(torch.addmm(self.first[e], part, self.up[e]))
            made.append(torch.addmm(self.second[e], self.dropout(u), self.down[e]))
        weighted = torch.cat(made) * weight.flatten()[order, None].to(h.dtype)
        out = torch.zeros_like(tokens).index_add(0, source, weighted)
        return out.unflatten(0, h.shape[:2]), notes


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: feeds of which a router chooses some for every token.

    y = sum over chosen experts of weight_e W2_e gelu(W1_e u + b1_e) + b2_e
    An expert has the hidden channels of the dense feed over the number of active ones, so that a token costs as much.
    The notes of the router are terms for a loss: ``objectives.Noted(objective, {"balance": 0.01})``.
    Source: Shazeer et al. 2017 (arXiv 1701.06538).

    >>> Experts(4).count
    4
    """

    count: Count = 8  # experts
    router: Router = field(default_factory=TopK)
    share: Count = 2  # hidden channels of an expert: those of the dense feed over this number

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        require(
            hidden % self.share == 0,
            f"Experts got share={self.share} for a feed of {hidden} hidden channels; they are divided equally: set a "
            f"divisor of {hidden}",
        )
        return Mixture(width, hidden // self.share, self.count, self.router, dropout)


class Retrieval(nn.Module):
    """Experts of one hidden channel each, found by product keys."""

    def __init__(self, width: int, side: int, heads: int, active: int):
        super().__init__()
        self.heads, self.active, self.side = heads, active, side
        half = max(1, width // 4)
        self.query = nn.Linear(width, heads * 2 * half)
        self.keys = nn.Parameter(torch.randn(2, side, half) * half**-0.5)
        self.up = nn.Parameter(torch.randn(side * side, width) * width**-0.5)
        self.down = nn.Parameter(torch.randn(side * side, width) * (heads * active) ** -0.5)

    def forward(self, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        q = self.query(h).unflatten(-1, (self.heads, 2, -1))
        q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + 1e-6)
        index, score = self.best(wide(torch.einsum("bnhcd,ckd->bnhck", q, self.keys)))
        weight = torch.softmax(score, -1).to(h.dtype)
        hidden = F.gelu(torch.einsum("bnhkd,bnd->bnhk", self.up[index], h))
        return torch.einsum("bnhk,bnhkd->bnd", weight * hidden, self.down[index]), {}

    def best(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers and scores [...,k] of the best pairs, for scores [...,2,n] of both halves of the keys."""
        top, at = scores.topk(self.active, -1)  # the best k pairs are among the best k of each half
        pairs = (top[..., 0, :, None] + top[..., 1, None, :]).flatten(-2)
        numbers = (at[..., 0, :, None] * self.side + at[..., 1, None, :]).flatten(-2)
        score, chosen = pairs.topk(self.active, -1)
        return numbers.gather(-1, chosen), score


@dataclass(frozen=True)
class PEER:
    """Very many experts of one hidden channel, retrieved by product keys.

    y = sum over heads and their best k experts of softmax(s)_i gelu(w_i' u) v_i,  s_i = q1' K1_a + q2' K2_b, i = (a, b)
    The best of side^2 experts are found among 2 side keys.  Halves of queries are normalised for each token.
    Source: He 2024, "Mixture of A Million Experts" (arXiv 2407.04153).

    >>> PEER(side=8).heads
    4
    """

    side: Count = 32  # the number of experts is its square
    heads: Count = 4  # retrievals of a token
    active: Count = 8  # experts of a retrieval

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        require(
            self.active <= self.side,
            f"PEER got active={self.active} with side={self.side}; the best experts are among the best keys of each "
            f"half: set 1 to {self.side}",
        )
        return Retrieval(width, self.side, self.heads, self.active)
