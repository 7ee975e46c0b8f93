"""A plan whose blocks use other heads, hidden channels and tokens at every time."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from beeline.core.modes import wide
from beeline.core.ranges import Count, Positive, dataclass
from beeline.networks.fp32 import layer_norm
from beeline.networks.transformer.layout import Layout, Notes, Part
from beeline.networks.transformer.plans.plan import Around, Inner, Plain, Plan, Visiting
from beeline.networks.transformer.plans.subset import Portion

TEMPERATURE = 5.0  # of the gates in training
MORE_TOKENS = 2.0  # times the bias of the groups: tokens are left out later
LEAST_TOKENS = 0.1  # share of the tokens below which the budget grows


class Used(Part):
    """Gates [B,G] of groups of heads and of hidden channels, and [B,N,1] of the tokens that are fed."""

    def __init__(self, heads: Tensor, hidden: Tensor, tokens: Tensor | None = None):
        self.of_heads, self.of_hidden, self.of_fed = heads, hidden, tokens

    def heads(self, mixed: Tensor) -> Tensor:
        return mixed * in_groups(self.of_heads, mixed.shape[1])[:, :, None, None].to(mixed.dtype)

    def hidden(self, u: Tensor) -> Tensor:
        return u * in_groups(self.of_hidden, u.shape[-1])[:, None].to(u.dtype)

    def fed(self, out: Tensor) -> Tensor:
        if self.of_fed is None or self.of_fed.shape[1] != out.shape[1]:
            return out
        return out * self.of_fed.to(out.dtype)

    def of_rows(self, rows: Tensor) -> Part:
        return Used(self.of_heads[rows], self.of_hidden[rows], None if self.of_fed is None else self.of_fed[rows])


class Choosing(Around):
    """Visits with gates by the embedding of time and condition, and of every token by itself."""

    def __init__(self, inner: Visiting, width: int, visits: int, groups: int, target: float, start: float):
        super().__init__(inner, range(visits))
        self.width, self.target = width, target
        self.groups = nn.ModuleList(_open(nn.Linear(width, 2 * (groups - 1)), start) for _ in range(visits))
        self.tokens = nn.ModuleList(_open(nn.Linear(width, 1), MORE_TOKENS * start) for _ in range(visits))

    def layout(self, k: int, e: Tensor, layout: Layout) -> Layout:
        heads, hidden = self.gate(self.groups[k](e)).chunk(2, -1)
        one = torch.ones_like(heads[:, :1])  # the first group is always used
        used = Used(torch.cat([one, heads], -1), torch.cat([one, hidden], -1))
        return super().layout(k, e, layout)._replace(part=used)

    def changed(self, k: int, inner: Inner, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        fed, used = self.gate(self.tokens[k](layer_norm(h))), layout.part
        assert isinstance(used, Used)
        out, notes = inner(h, layout._replace(part=Used(used.of_heads, used.of_hidden, fed)))
        if layout.noting:
            mixing, feeding = 4 * self.width + 2 * h.shape[1], 8 * self.width  # products of a token, over the width
            parts = mixing * used.of_heads.mean(), feeding * used.of_hidden.mean() * fed.mean()
            share = (parts[0] + parts[1]) / (mixing + feeding)
            short = (LEAST_TOKENS - fed.mean()).clamp(min=0)
            notes = {**notes, "budget": (share - self.target).square() + short, "used": share}
        return out, notes

    def gate(self, logits: Tensor) -> Tensor:
        """Zeros and ones, with the derivative of a sigmoid in reverse mode; with noise in training."""
        z = wide(logits)
        if self.training:
            u = torch.empty_like(z).uniform_(1e-6, 1 - 1e-6)  # as dropout: under the ambient key of a step
            z = z + u.log() - (-u).log1p()  # the difference of two Gumbel numbers
        p = torch.sigmoid(z / TEMPERATURE)
        hard = (p > 0.5).to(p.dtype)
        return hard if forward_ad._current_level >= 0 else hard + p - p.detach()


@dataclass(frozen=True)
class DynamicWidth:
    """Groups of heads and of hidden channels are used or not by time and condition, and tokens are fed or not.

    o <- W [m_1 o_1 .. m_H o_H],  y_i <- s_i W2 (m' * u_i),  m = 1[W_m e + b > 0],  s_i = 1[w' norm(h_i) + c > 0]
    Everything is used at first.  In training logits have the noise of Gumbel, and gradients are those of sigmoids at
    temperature 5.  Note ``budget``: (share of products that are made - target)^2 in every block, for
    ``objectives.Noted(objective, {"budget": 2.0})``; ``used`` is that share.  A network spares the work only where its
    weights are cut: see ``networks.SubNetwork``.
    Source: Zhao et al. 2025, "DyDiT++" (arXiv 2504.06803); Zhao et al. 2024, "Dynamic Diffusion Transformer" (arXiv
    2410.03456).

    >>> DynamicWidth().target
    0.5
    """

    groups: Count = 4  # of the heads, and of the hidden channels; the first is always used
    target: Portion = 0.5  # share of the products
    start: Positive = 15.0  # logits at first, twice that for tokens; a short training needs a start near 1
    plan: Plan = field(default_factory=Plain)  # of the visits

    def visits(self, blocks: int) -> tuple[int, ...]:
        return self.plan.visits(blocks)

    def build(self, width: int, visits: int) -> Visiting:
        return Choosing(self.plan.build(width, visits), width, visits, self.groups, self.target, self.start)


def in_groups(gates: Tensor, count: int) -> Tensor:
    """Gates [B,G] for ``count`` heads or channels in G runs of nearly equal length."""
    index = torch.arange(count, device=gates.device) * gates.shape[-1] // count
    return gates[:, index]


def _open(layer: nn.Linear, bias: float) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)
    return layer
