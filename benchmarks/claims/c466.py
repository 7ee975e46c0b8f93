"""Digits of 8 x 8 pixels, three blocks, trained for 120 steps, then 60 steps more with half of the hidden channels: the
groups of eight that suit a token (three quarters of them the same for all), the largest ones for every token, and
all."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.networks.growing.experts import grouped
from beeline.networks.transformer.groups import TopGroups
from benchmarks.claims.fed import PLAIN, held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Mixture of hidden dimensions"
CLAIM = "Half of the hidden channels, chosen for every token, are as good as all."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    base = trained(transformer(rng), rng)

    def tuned(router: Any, objective: Any = PLAIN, steps: int = 60) -> float:
        made = bl.Network(grouped(base.backbone, 16, router))
        return held_loss(trained(made, rng.fork("tune"), objective, steps) if steps else made, rng)

    chosen = tuned(TopGroups(0.5), bl.objectives.Noted(PLAIN, {"balance": 0.01}))
    cut = tuned(TopGroups(0.5, 1.0), steps=0)
    return [
        finding("half, chosen for a token (figure) against half, the same for all", tuned(TopGroups(0.5, 1.0)), chosen,
                cut, "cut without more training"),
        finding("half, chosen for a token (figure) against all channels", tuned(TopGroups(1.0)), chosen, cut,
                "cut without more training"),
    ]  # fmt: skip
