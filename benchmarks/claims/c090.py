"""A small transformer of digits moved to turned pictures: half of the tokens skip the feed by a trained gate, against
a bottleneck beside whole feeds."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import beeline as bl
from beeline.networks.branches.bottlenecks import Bottleneck
from beeline.networks.branches.dispatch import Dispatch
from benchmarks.claims.beside import before, moved, turned
from benchmarks.claims.small_transformers import digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Dynamic Tuning: tokens skip blocks by a gate, all take an adapter"
CLAIM = "Equal or better accuracy at 71 to 85 percent of the operations."


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    (own, _, net), (plain, _, whole) = (moved(seed, part, turned) for part in (Dispatch(0.5, 8), Bottleneck(8)))
    raw, costs = before(seed, turned), [operations(part) for part in (net, whole)]
    return [
        finding("operations: half of the tokens skip, against 0.85 of all", 0.85 * costs[1], costs[0], costs[1],
                "no token skips"),
        finding("loss, turned: half of the tokens skip, against a bottleneck", plain, own, raw, "not adapted"),
        finding("loss, turned: half of the tokens skip, against a bottleneck, a tenth worse", 1.1 * plain, own, raw,
                "not adapted"),
    ]  # fmt: skip


def operations(net: Any) -> float:
    """Of one evaluation of held-out pictures in the new style."""
    x1 = turned(digits()[1].x1)
    t = torch.linspace(0, 1, len(x1))
    with torch.no_grad(), FlopCounterMode(display=False) as count:
        net.eval()(t[:, None, None, None] * x1, t)
    return float(count.get_total_flops())
