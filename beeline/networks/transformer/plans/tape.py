"""A plan in which tokens read a variable number of learned ones."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor, nn

from beeline.core.modes import wide
from beeline.core.ranges import Count, Positive, Whole, dataclass
from beeline.networks.fp32 import layer_norm
from beeline.networks.transformer.layout import Layout, Notes
from beeline.networks.transformer.plans.depths import checked
from beeline.networks.transformer.plans.plan import Around, Inner, Plain, Plan, Visiting
from beeline.networks.transformer.reading import CrossAttention


class Taped(Around):
    """A visit before which tokens read those of a tape."""

    def __init__(self, inner: Visiting, at: int, width: int, bank: int, most: int, tau: float):
        super().__init__(inner, (at,) if most else ())
        self.most, self.tau = most, tau
        if most:
            self.bank = nn.Parameter(torch.randn(bank, width))
            self.read = CrossAttention(width, 1)

    def changed(self, k: int, inner: Inner, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        n = layout.tokens
        tape, on, ponder = self.tape(layer_norm(h[:, :n]).mean(1))
        x = h[:, :n] + self.read(layer_norm(h[:, :n]), tape.to(h.dtype), on)
        out, notes = inner(torch.cat([x, h[:, n:]], 1), layout)
        if layout.noting:
            notes = {**notes, "ponder": ponder, "tape_tokens": on.sum(1).to(ponder).mean()}
        return out, notes

    def tape(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tape tokens [B,most,D] of queries [B,D], which of them are read [B,most], and the mean spread of weights."""
        keys, q = layer_norm(wide(self.bank)), wide(q)
        best = max(1, int(self.most // self.tau))
        unused = torch.ones(len(q), len(keys), dtype=torch.bool, device=q.device)
        halting, found, reading, spreads = q.new_zeros(len(q)), [], [], []
        for _ in range(min(self.most, len(keys) // best)):
            reading.append(halting < self.tau)
            scores = (q @ keys.mT / q.shape[-1] ** 0.5).masked_fill(~unused, -torch.inf)
            top = scores.topk(best, -1)
            w = torch.softmax(top.values, -1)
            found.append((w[..., None] * self.bank[top.indices]).sum(1))
            q = (q + (w[..., None] * keys[top.indices]).sum(1)) / 2
            unused = unused.scatter(1, top.indices, False)
            halting = halting + w[:, 0]
            spreads.append(1 - w.square().sum(-1))
        on = torch.stack(reading, 1)
        spread = torch.stack(spreads, 1) * on
        return torch.stack(found, 1), on, spread.sum() / on.sum()


@dataclass(frozen=True)
class Tape:
    """Before one visit the tokens read a variable number of tokens of a learned bank (AdaTape).

    until sum w_1 >= tau, at most ``most`` times:  w = softmax of q' k / sqrt(D) over the best
    most / tau unused entries
    tape <- tape + [sum w v],  q <- (q + sum w k) / 2;  then h <- h + W attention(norm(h), tape),  W = 0 at first
    q is the mean of the normalised tokens of a sample, so that its tape does not depend on others.  Notes ``ponder``,
    the mean of 1 - sum w^2, and ``tape_tokens``, how many were read.
    Source: Xue et al. 2023, "Adaptive Computation with Elastic Input Sequence" (arXiv 2301.13195); there tape tokens
    join the sequence, which changes a network at once.

    >>> Tape().most
    10
    """

    bank: Count = 128  # learned tokens
    most: Whole = 10  # tokens of a tape; 0 is the plan without a tape
    tau: Positive = 2.0  # of the sum of largest weights, at which a tape ends
    block: Whole = 1  # number of the visit
    plan: Plan = field(default_factory=Plain)  # of the visits

    def visits(self, blocks: int) -> tuple[int, ...]:
        return self.plan.visits(blocks)

    def build(self, width: int, visits: int) -> Visiting:
        (at,) = checked((min(self.block, visits - 1),), visits, "Tape")
        return Taped(self.plan.build(width, visits), at, width, self.bank, self.most, self.tau)
