"""Velocities of a small flow of the ring with a quarter of the numbers of its inner layers as factors, before and after
300 steps of training on its own states; from factors for outputs and for weights."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.quantize import LowRank
from beeline.networks.compressing.recover import Recovered
from benchmarks.claims.storing import ring, velocity_change
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "PELA: factors of low rank, trained on the outputs of the whole network"
CLAIM = "With a third to two thirds fewer weights the loss is 0.6 points."


def measure(rng: bl.Rng) -> list[Finding]:
    net = ring(rng.seed)
    plain, careful = LowRank(0.25, False), LowRank(0.25)
    before, after, better = (velocity_change(m, net, rng) for m in (plain, Recovered(plain), Recovered(careful)))
    return [
        finding("trained (figure) against not", before, after, before, "no training"),
        finding("trained from factors for outputs (figure) against for weights", after, better, before, "no training"),
    ]
