"""Velocities of a small transformer of the digits with half of its heads and hidden channels: those that vary most,
with the means of the others in biases, against the first ones."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.prune import Narrow
from beeline.networks.transformer.plans.elastic import extracted
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FLAP: parts whose outputs vary least are taken away"
CLAIM = "It beats other structured pruning without retraining."


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, fresh = digits(rng.seed)
    found = []
    for share in (0.75, 0.5):
        method = Narrow(share, fitted=False)
        made = method.apply(net, method.plan(net, probe), probe, rng)
        first, few = (change_of(extracted(net, s), net, fresh) for s in (share, 0.25))
        found.append(finding(f"{share:.0%} of the parts: by variance (figure) against the first ones", first,
                             change_of(made, net, fresh), max(few, first), "a quarter"))  # fmt: skip
    return found
