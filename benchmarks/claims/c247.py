"""Loss of a flow in a new style on fixed noise: the numbers of a LoRA by evolution in 60 directions, against Adam
on the same numbers, as shares of what Adam gains."""

from __future__ import annotations

import copy

import torch

import beeline as bl
from beeline.networks.adapters.delta import LoRA
from beeline.training.optim.evolving import Evolution, evolved
from benchmarks.claims.deltas import base, changed, restyled, tune
from benchmarks.claims.toys import points
from benchmarks.claims.verdict import Finding

METHOD = "BBTv2: few numbers by evolution, without gradients"
CLAIM = "Comparable to LoRA and full training with few examples."
DIRECTIONS, EVALUATIONS = 60, 3200


def measure(rng: bl.Rng) -> list[Finding]:
    data = bl.Batch(restyled(points(rng).x1[:32]))  # few examples
    held = bl.Batch(restyled(points(rng.fork("held")).x1[:4000]))
    objective, net = bl.objectives.FlowMatching(), changed(LoRA(2), rng.seed)

    @torch.no_grad()
    def loss(field: torch.nn.Module, batch: bl.Batch = data, name: str = "fixed") -> float:
        repeated = bl.Batch(batch.x1.repeat(8, 1)) if batch is data else batch
        return float(objective(field, repeated, rng.fork(name)).value)

    by_values = evolved(copy.deepcopy(net), loss, rng, Evolution(EVALUATIONS, 16, 0.3), DIRECTIONS, spread=0.5)
    by_slopes = tune(copy.deepcopy(net), rng.seed, data, steps=150)
    before = loss(base(rng.seed), held, "held")
    gain = before - loss(by_slopes, held, "held")
    share = (before - loss(by_values, held, "held")) / gain
    return [
        Finding("share of the gain of Adam on held-out points, against 90%", 0.9, share, 0.0, "not adapted", "higher"),
        Finding("share of the gain of Adam on held-out points, against 50%", 0.5, share, 0.0, "not adapted", "higher"),
    ]
