"""Digits of 8 x 8 pixels in four tokens, four blocks, 16 parts (four widths, four depths), one in every step, 150
steps. The weights of a part are a mean of two sets, which start equal, with shares by a network that reads its width
and blocks. Held-out losses are compared with those of one set of weights after as many steps; and how much the
smallest part loses while the whole alone trains for 30 steps more. Twice the weights and their moments are stored.
Shares for every row of a weight are not measured."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.transformer.layout import asked
from beeline.networks.transformer.plans.subset import Subset
from benchmarks.claims.c272 import GRID, OBJECTIVE, SHARES
from benchmarks.claims.elastic import DEPTH, STEPS, elastic, first, loss, losses, mean, sized
from benchmarks.claims.small_transformers import same, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Mixture of supernets: weights of a part by a router"
CLAIM = "Parts that share weights disturb each other less where a router mixes several sets of weights for each."
MORE = 30  # steps of the whole alone


class Mixture(nn.Module):
    """v(x, t; W(a)),  W(a) = sum_m r_m(a) W_m,  r = softmax(MLP(a)), a the width and the visits of a part."""

    def __init__(self, net: nn.Module, sets: int = 2):
        super().__init__()
        self.field = net
        self.more = nn.ModuleList(copy.deepcopy(net) for _ in range(sets - 1))
        self.route = nn.Sequential(nn.Linear(1 + DEPTH, 64), nn.SiLU(), nn.Linear(64, sets))

    def shares(self) -> Tensor:
        part = asked().part
        visits = range(DEPTH) if part.visits is None else part.visits
        width = part.width if isinstance(part, Subset) else 1.0
        code = torch.tensor([width, *(float(k in visits) for k in range(DEPTH))])
        return self.route(4 * code).softmax(-1)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        r, sets = self.shares(), [dict(net.named_parameters()) for net in (self.field, *self.more)]
        weights = {name: sum(r[m] * own[name] for m, own in enumerate(sets)) for name in sets[0]}
        return torch.func.functional_call(self.field, weights, (x, t, cond))


def lost(net: nn.Module, rng: bl.Rng, part: Subset) -> float:
    """How much the loss of a part grows while the whole alone trains."""
    before = loss(net, part)
    return loss(trained(copy.deepcopy(net), same(rng), steps=MORE), part) - before


def measure(rng: bl.Rng) -> list[Finding]:
    seed, parts = rng.seed, [sized(*pair) for pair in GRID]
    plain, smallest = elastic(seed, OBJECTIVE), sized(SHARES[0], SHARES[0])
    with same(rng).fork("router").ambient():
        mixed = Mixture(first(seed))
        single = Mixture(first(seed), 1)
    start = losses(single, parts)
    assert max(abs(a - b) for a, b in zip(start, losses(mixed, parts), strict=True)) < 1e-5, "equal sets are one"
    mixed = trained(mixed, same(rng), OBJECTIVE, STEPS)
    one, two = ([mean(losses(net, parts)), loss(net, smallest), lost(net, rng, smallest)] for net in (plain, mixed))
    return [
        finding("mean of 16 parts: two sets of weights (figure) against one", one[0], two[0], mean(start)),
        finding("the smallest part: two sets of weights (figure) against one", one[1], two[1], mean(start)),
        finding("what the smallest part loses while the whole trains: two sets (figure) against one", one[2], two[2],
                mean(start) - one[1], "all that was learned"),
    ]  # fmt: skip
