"""Feeds of which a part is computed: groups of hidden channels, or one of two sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import field

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import Count, Share, dataclass
from beeline.networks.transformer.experts import Mixture
from beeline.networks.transformer.feeds import Dense
from beeline.networks.transformer.layout import NONE, Layout, Notes
from beeline.networks.transformer.routers import Router, Routing, balance


class Best(nn.Module):
    """Weights of groups, some of which are always computed."""

    def __init__(self, width: int, groups: int, active: int, fixed: int):
        super().__init__()
        self.gate = nn.Linear(width, groups, bias=False)
        nn.init.zeros_(self.gate.weight)
        self.active, self.fixed = active, fixed

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        s = torch.softmax(wide(self.gate(h)), -1)
        rest = s[:, self.fixed :].detach().argsort(dim=-1, descending=True, stable=True)[:, : self.active - self.fixed]
        always = torch.arange(self.fixed, device=h.device).expand(len(h), -1)
        index = torch.cat([always, self.fixed + rest], -1)
        weight = s.gather(-1, index)
        notes = {"balance": balance(s[:, self.fixed :], rest)} if rest.shape[1] else NONE
        return Routing(index, self.active * weight / weight.sum(-1, keepdim=True), notes)


@dataclass(frozen=True)
class TopGroups:
    """The groups of hidden channels that suit a token, beside some that are always computed.

    s = softmax(C u), C = 0 at first;  weights = active s_g / sum of the active s, so that they are 1 for equal scores
    Of the active groups a share ``always`` is the same for every token.  Note ``balance`` over the other groups.
    Source: Chen et al. 2024, "Mixture of Hidden-Dimensions Transformer" (arXiv 2412.05644), without the layer that
    mixes groups.

    >>> TopGroups(share=0.25).share
    0.25
    """

    share: Share = 0.5  # active groups over all
    always: Share = 0.75  # of the active groups, those that every token has

    def build(self, width: int, experts: int) -> nn.Module:
        active = max(1, round(self.share * experts))
        return Best(width, experts, active, int(self.always * active))


class Number(nn.Module):
    """How many groups a token has."""

    def __init__(self, width: int, groups: int, budget: float):
        super().__init__()
        self.gate = nn.Linear(width, groups + 1)
        self.budget = budget
        with torch.no_grad():
            self.gate.weight.zero_()
            self.gate.bias.zero_()[-1] = 3.0  # all groups, and others with a chance from which to learn

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        logits = wide(self.gate(h))
        if self.training:
            made = F.gumbel_softmax(logits, hard=True)
        else:
            made = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        weight = made.flip(-1).cumsum(-1).flip(-1)[:, 1:]  # 1 for group g where the number is at least g
        index = torch.arange(weight.shape[1], device=h.device).expand_as(weight)
        runs = None if self.training else weight > 0  # the gate learns from what groups would have added
        notes = self.notes(torch.softmax(logits, -1), weight, rows) if layout.noting else NONE
        return Routing(index, weight, notes, runs)

    def notes(self, p: Tensor, weight: Tensor, rows: Tensor) -> Notes:
        kept = weight.mean()
        count = int(rows[-1]) + 1
        mean = p.new_zeros(count, p.shape[1]).index_add(0, rows, p)
        mean = mean / mean.sum(-1, keepdim=True)  # of the tokens of a row
        number = mean @ torch.arange(p.shape[1], device=p.device, dtype=p.dtype)
        return {
            "budget": (kept - self.budget).abs(),
            "certainty": 1 + (mean * mean.clamp(min=1e-12).log()).sum(-1).mean() / math.log(p.shape[1]),
            "alike": -(number[:, None] - number).abs().mean(),
            "kept": kept.detach(),
        }


@dataclass(frozen=True)
class Prefix:
    """As many groups as a token needs, in their order: the first 0 to all of them.

    number = argmax (W u + b), in training a draw from softmax(W u + b);  weight_g = 1 for g <= number, else 0
    W = 0 and b prefers all groups at first.  Notes for a loss: ``budget`` = |mean share - budget|, ``certainty`` (1 if
    the tokens of a row have one number, 0 if they have all equally often) and ``alike`` (how little rows differ, at
    most 0);  for the log: ``kept``, the mean share.
    Source: Wojcik et al. 2023, "Adaptive Computation Modules" (arXiv 2312.10193).

    >>> Prefix(0.25).budget
    0.25
    """

    budget: Share = 0.5  # wanted share of groups

    def build(self, width: int, experts: int) -> nn.Module:
        return Number(width, experts, self.budget)


@dataclass(frozen=True)
class Groups:
    """A feed whose hidden channels are in groups, of which a router chooses some for every token.

    y = sum_g weight_g (W2_g gelu(W1_g u + b1_g) + b2_g);  with all weights 1 it is the dense feed of all channels
    Source: as its router; ``networks.growing.grouped`` makes it of a trained dense feed.

    >>> Groups(4).count
    4
    """

    count: Count = 8  # groups
    router: Router = field(default_factory=TopGroups)

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        require(
            hidden % self.count == 0,
            f"Groups got count={self.count} for a feed of {hidden} hidden channels; groups are equal: set a divisor of "
            f"{hidden}",
        )
        return Mixture(width, hidden // self.count, self.count, self.router, dropout)


class TwoSizes(nn.Module):
    """A large and a small feed."""

    choice: Tensor

    def __init__(self, width: int, hidden: int, small: int, dropout: float):
        super().__init__()
        self.big, self.small = Dense(width, hidden, dropout), Dense(width, small, dropout)
        self.register_buffer("choice", torch.tensor(2))  # outside of training: 0 nothing, 1 small, 2 big

    def forward(self, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        if self.training:
            even = torch.zeros(*h.shape[:2], 3, device=h.device)
            choice = F.gumbel_softmax(even).argmax(-1, keepdim=True)
        else:
            choice = self.choice.expand(1, 1, 1)
        out = torch.zeros_like(h)
        for number, part in ((1, self.small), (2, self.big)):
            if self.training or bool(self.choice == number):
                out = torch.where(choice == number, part(h)[0], out)
        return out, NONE


@dataclass(frozen=True)
class Duo:
    """A large and a small feed, or none, of which one is computed; all are trained by random choices for every token.

    y = big(u), small(u) or 0
    Outside of training a network has the plan that ``choose`` gives it, at first big feeds everywhere: what is the
    best one for a budget is found by trying plans.
    Source: Alizadeh et al. 2024, "Duo-LLM" (arXiv 2410.10846).

    >>> Duo(4).share
    4
    """

    share: Count = 8  # hidden channels of the small feed: those of the big one over this number

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        return TwoSizes(width, hidden, max(1, hidden // self.share), dropout)


def choose(net: nn.Module, plan: Sequence[int]) -> None:
    """Give every feed of two sizes its choice, in the order of the blocks: 0 nothing, 1 small, 2 big.

    Raises BeelineError where the plan has another length or other numbers.
    """
    feeds = [module for module in net.modules() if isinstance(module, TwoSizes)]
    require(
        len(plan) == len(feeds) and all(number in (0, 1, 2) for number in plan),
        f"choose got the plan {tuple(plan)} for a network with {len(feeds)} feeds of two sizes; it has a number "
        "for each feed, 0 for nothing, 1 for the small one, 2 for the big one: give these",
    )
    for module, number in zip(feeds, plan, strict=True):
        module.choice.fill_(number)


def plans(feeds: int) -> Iterator[tuple[int, ...]]:
    """All plans of a network with a number of feeds: 3 to the power of it."""
    return itertools.product(range(3), repeat=feeds)
