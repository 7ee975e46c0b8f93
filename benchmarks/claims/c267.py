"""Velocities of a small transformer of the digits with half and a quarter of its heads and hidden channels: the layers
after them fitted by least squares against biases that take the means."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.prune import Narrow
from beeline.networks.transformer.plans.elastic import extracted
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "K-prune: weights fitted to what the whole layer did"
CLAIM = "Up to 58 points better than other pruning without retraining."


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, fresh = digits(rng.seed)
    found = []
    for share in (0.5, 0.25):
        means, fitted = (
            change_of(method.apply(net, method.plan(net, probe), probe, rng), net, fresh)
            for method in (Narrow(share, fitted=False), Narrow(share))
        )
        first = max(means, change_of(extracted(net, share), net, fresh))
        found.append(finding(f"{share:.0%} of the parts: fitted (figure) against means", means, fitted, first,
                             "the first parts"))  # fmt: skip
    return found
