"""Four changes of a flow, each trained on two modes of a new style, merged one after another without what is in the
directions of those before, against their sum and their mean: W2 distance to all modes."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.adapters.merges import Average, Orthogonal, Sum, merged_networks
from benchmarks.claims.deltas import base, distance, modes, restyled, tune
from benchmarks.claims.toys import points
from benchmarks.claims.verdict import Finding

METHOD = "OPCM: orthogonal projections for merging in sequence"
CLAIM = "5 to 8% better than other rules, and robust to the order."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    x = points(rng).x1
    tasks = []
    for pair in ((0, 1), (2, 3), (4, 5), (6, 7)):
        with torch.no_grad():
            start = merged_networks(net, [net], Sum()).requires_grad_(True)
        data = bl.Batch(restyled(x[torch.isin(modes(x), torch.tensor(pair))]))
        tasks.append(tune(start, seed, data, name=f"pair {pair}"))
    with torch.no_grad():
        made = {
            name: distance(merged_networks(net, tasks, rule), seed)
            for name, rule in (("sum", Sum()), ("mean", Average()), ("opcm", Orthogonal()))
        }
    raw = distance(net, seed)
    return [
        Finding("W2 to all modes: merged in sequence (figure) against the sum", made["sum"], made["opcm"],
                distance(tasks[0], seed), "one of the changes"),
        Finding("W2 to all modes: merged in sequence (figure) against the mean", made["mean"], made["opcm"], raw,
                "not adapted"),
    ]  # fmt: skip
