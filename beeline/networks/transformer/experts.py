"""Feeds of several experts, of which a router chooses some for every token."""

from __future__ import annotations

from dataclasses import field

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import Counting, count
from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import Count, dataclass
from beeline.networks.transformer.feeds import Dense
from beeline.networks.transformer.layout import Layout, Notes
from beeline.networks.transformer.routers import Router, TopK


class Mixture(nn.Module):
    """The experts of one block as two tensors, their router, and a feed that takes all tokens."""

    def __init__(self, width: int, hidden: int, experts: int, router: Router, dropout: float, shared: bool = False):
        super().__init__()
        self.route = router.build(width, experts)
        self.up = nn.Parameter(torch.empty(experts, width, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        for part in (self.up, self.down):
            bound = part.shape[1] ** -0.5
            nn.init.uniform_(part, -bound, bound)  # as nn.Linear
        self.first, self.second = (nn.Parameter(torch.zeros(experts, n)) for n in (hidden, width))
        self.dropout = nn.Dropout(dropout)
        self.shared = Dense(width, hidden, dropout) if shared else None

    # the numbers of tokens of experts change, and a graph would be compiled for each of them
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        tokens = h.flatten(0, 1)
        rows = torch.arange(len(h), device=h.device).repeat_interleave(h.shape[1])
        index, weight, notes, runs, _ = self.route(tokens, rows, layout)
        flat, k = index.flatten(), index.shape[1]
        order = flat.argsort(stable=True)  # all tokens of an expert beside each other
        if runs is not None:
            order = order[runs.flatten()[order]]
        counts = torch.bincount(flat[order], minlength=len(self.up)).tolist()
        if isinstance(self.route, Counting):
            count(self.route, counts)
        made, source = [], order // k
        for e, part in enumerate(tokens[source].split(counts)):  # an expert without tokens stays in the graph
            u = F.gelu(torch.addmm(self.first[e], part, self.up[e]))
            made.append(torch.addmm(self.second[e], self.dropout(u), self.down[e]))
        weighted = torch.cat(made) * weight.flatten()[order, None].to(h.dtype)
        out = torch.zeros_like(tokens).index_add(0, source, weighted).unflatten(0, h.shape[:2])
        return out if self.shared is None else out + self.shared(h)[0], notes


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: feeds of which a router chooses some for every token.

    y = sum over chosen experts of weight_e W2_e gelu(W1_e u + b1_e) + b2_e
    An expert has the hidden channels of the dense feed over the number of active ones, so that a token costs as much.
    The notes of the router are terms for a loss: ``objectives.Noted(objective, {"balance": 0.01})``.
    Source: Shazeer et al. 2017 (arXiv 1701.06538); the expert that takes all tokens: Dai et al. 2024, "DeepSeekMoE"
    (arXiv 2401.06066).

    >>> Experts(4).count
    4
    """

    count: Count = 8  # experts
    router: Router = field(default_factory=TopK)
    share: Count = 2  # hidden channels of an expert: those of the dense feed over this number
    shared: bool = False  # whether a further expert takes all tokens, with weight 1

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        require(
            hidden % self.share == 0,
            f"Experts got share={self.share} for a feed of {hidden} hidden channels; they are divided equally: set a "
            f"divisor of {hidden}",
        )
        return Mixture(width, hidden // self.share, self.count, self.router, dropout, self.shared)


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
