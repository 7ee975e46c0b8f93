"""Digits of 8 x 8 pixels, three blocks of four experts, one active, and as many places as tokens: the held-out loss
after 120 steps.  Without rectification tokens beyond the places of their expert are dropped in training, as in the
paper; held-out data are never dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import beeline as bl
from beeline.networks.transformer.experts import Experts
from beeline.networks.transformer.routers import Rectified, Rectify, Routing, TopK, served
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Rectified router"
CLAIM = "Tokens beyond the capacity of an expert, and places that stay empty, are worth more used than dropped."
SEEDS = 3


class Drops(Rectified):
    """Places without rectification."""

    def forward(self, h: Any, rows: Any, layout: Any) -> Routing:
        found = self.inner(h, rows, layout)
        if not self.training:
            return found  # type: ignore[no-any-return]
        mine = found.scores.new_zeros(found.scores.shape).scatter(1, found.chosen, 1) > 0
        places = round(self.capacity * found.chosen.numel() / found.scores.shape[1])
        runs = (served(found.scores, mine) < places).gather(1, found.chosen)
        return found._replace(runs=runs)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Dropped:
    """A router that drops tokens beyond the places."""

    def build(self, width: int, experts: int) -> Any:
        return Drops(TopK(1).build(width, experts), 1.0, False)


def measure(rng: bl.Rng) -> list[Finding]:
    def loss(router: Any) -> float:
        return held_loss(trained(transformer(rng, feed=Experts(4, router, share=1)), rng), rng)

    first = held_loss(transformer(rng, feed=Experts(4, TopK(1), share=1)), rng)
    dropped = loss(Dropped())
    return [
        finding("both rectifications (figure) against dropped tokens", dropped, loss(Rectify(TopK(1))), first),
        finding("no dropped tokens, empty places (figure) against dropped", dropped, loss(Rectify(TopK(1), fill=False)),
                first),
    ]  # fmt: skip
