"""A plan in which some blocks see fewer tokens, into which the others are merged."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.modes import wide
from beeline.core.ranges import Count, Range, dataclass
from beeline.networks.fp32 import layer_norm
from beeline.networks.transformer.layout import Layout, Notes
from beeline.networks.transformer.plans.depths import at_tokens, checked, wide_index
from beeline.networks.transformer.plans.plan import Around, Inner, Plain, Plan, Visiting

SHARPNESS = 10.0  # of the weights of targets, per unit of cosine similarity


class Reduced(Around):
    """Visits that see fewer tokens."""

    scattered = True

    def __init__(self, inner: Visiting, at: tuple[int, ...], share: float, targets: int, window: int):
        super().__init__(inner, at)
        self.share, self.targets, self.window = share, targets, window

    def changed(self, k: int, inner: Inner, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        n = layout.tokens
        few = n - round(self.share * n)
        if few == n:
            return inner(h, layout)
        x, u = h[:, :n], F.normalize(wide(layer_norm(h[:, :n])), dim=-1)
        score = spread_out(-u @ u.mean(1)[..., None], layout.grid, self.window)
        order = score.argsort(dim=1, descending=True, stable=True)
        kept, rest = order[:, :few].sort(1).values, order[:, few:]
        weight = shares(at_tokens(u, rest), at_tokens(u, kept), self.targets).to(h.dtype)
        sizes = 1 + weight.sum(1)
        merged = (at_tokens(x, kept) + weight.mT @ at_tokens(x, rest)) / sizes[..., None]
        others = sizes[:, :0] if layout.sizes is None else layout.sizes[:, n:]
        few_tokens = layout.of_tokens(kept)._replace(sizes=torch.cat([sizes, others.to(sizes)], 1))
        out, notes = inner(torch.cat([merged, h[:, n:]], 1), few_tokens)
        change = out[:, :few] - merged
        x = x.scatter_add(1, wide_index(kept, h), change).scatter_add(1, wide_index(rest, h), weight @ change)
        return torch.cat([x, out[:, few:]], 1), notes


@dataclass(frozen=True)
class Reduce:
    """Some blocks see fewer tokens: the most redundant ones are merged into similar ones, and moved with them.

    filter: redundancy r_i = mean_j cos(u_i, u_j), u = norm(h); in every window the most redundant one counts double
    correlate: the most similar kept tokens j of a token i that is left out;  w_ij = softmax of 10 cos(u_i, u_j)
    compress: h_j <- (h_j + sum_i w_ij h_i) / size_j,  size_j = 1 + sum_i w_ij, with ln(size) added to logits of softmax
    restore: h_i <- h_i + sum_j w_ij (change of h_j)
    No training is needed; share = 0 is the network itself.
    Source: Han et al. 2024, "Filter, Correlate, Compress" (arXiv 2411.17686), whose scores are those of attention; the
    restoration is chosen here.

    >>> Reduce().at(8)
    (2, 3, 4, 5, 6, 7)
    """

    share: Annotated[float, Range(least=0, below=1)] = 0.25  # of the tokens that are left out
    targets: Count = 1  # tokens that one is merged into
    window: Count = 2  # side of the windows over which the tokens that are left out are spread
    blocks: tuple[int, ...] | None = None  # numbers of visits; None is all from a quarter on
    plan: Plan = field(default_factory=Plain)  # of the visits

    def at(self, visits: int) -> tuple[int, ...]:
        """The visits that see fewer tokens."""
        return tuple(range(visits // 4, visits)) if self.blocks is None else self.blocks

    def visits(self, blocks: int) -> tuple[int, ...]:
        return self.plan.visits(blocks)

    def build(self, width: int, visits: int) -> Visiting:
        at = checked(self.at(visits), visits, "Reduce")
        return Reduced(self.plan.build(width, visits), at, self.share, self.targets, self.window)


def spread_out(score: Tensor, grid: tuple[int, ...], window: int) -> Tensor:
    """Scores [B,N,1] as [B,N], with the lowest of every window lowered: halved if positive, doubled if negative."""
    index = torch.zeros((), dtype=torch.int64, device=score.device)
    for n in grid:
        index = index[..., None] * (-(-n // window)) + torch.arange(n, device=score.device) // window
    owner, score = index.flatten().expand(len(score), -1), score[..., 0]
    least = score.new_full((len(score), int(index.max()) + 1), torch.inf).scatter_reduce(1, owner, score, "amin")
    lower = torch.where(score > 0, score / 2, score * 2)
    return torch.where(score == least.gather(1, owner), lower, score)


def shares(rest: Tensor, kept: Tensor, targets: int) -> Tensor:
    """How much of every token that is left out goes to every kept one [B,R,M]; rows sum to 1."""
    similar = rest @ kept.mT
    top = similar.topk(min(targets, similar.shape[-1]), -1)
    return torch.zeros_like(similar).scatter(-1, top.indices, torch.softmax(SHARPNESS * top.values, -1))
