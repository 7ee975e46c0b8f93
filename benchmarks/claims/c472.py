"""Velocities of a small transformer of the digits without one of its four blocks: that whose removal changes them least
against the mean of all; after 100 steps of training on the states of its own sampling."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.prune import Shallow
from beeline.networks.compressing.recover import Recovered
from beeline.networks.transformer.plans.elastic import extracted
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "LAPTOP-Diff: layers by the loss of their removal, and distillation"
CLAIM = "4.0 percent are lost at half of the layers, where others lose 8.2."


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, fresh = digits(rng.seed)
    single = [change_of(extracted(net, 1.0, [j for j in range(4) if j != k]), net, fresh) for k in range(4)]
    method, trained = Shallow(1), Recovered(Shallow(1), steps=100)
    chosen, after = (change_of(m.apply(net, m.plan(net, probe), probe, rng), net, fresh) for m in (method, trained))
    two = Shallow(2)
    half = change_of(two.apply(net, two.plan(net, probe), probe, rng), net, fresh)
    return [
        finding("one block less: the least important one (figure) against the mean of all", sum(single) / 4, chosen,
                max(single), "the most important one"),
        finding("one block less: 100 steps of training (figure) against none", chosen, after, max(half, chosen),
                "two blocks less"),
    ]  # fmt: skip
