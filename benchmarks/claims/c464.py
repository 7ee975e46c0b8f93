"""Velocities of a small flow of the ring with half of the numbers of its inner layers: factors by singular values
against zeros in place of the smallest numbers; with training."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.around import Sparse
from beeline.networks.compressing.quantize import LowRank, Quantize
from beeline.networks.compressing.recover import Recovered
from benchmarks.claims.storing import ring, velocity_change
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Greenformers: layers as factors by singular values"
CLAIM = "Over 30 percent lower cost at nearly equal accuracy."


def measure(rng: bl.Rng) -> list[Finding]:
    net = ring(rng.seed)
    plain, trained, zeros, few = (
        velocity_change(method, net, rng)
        for method in (LowRank(0.5, False), Recovered(LowRank(0.5, False)), Quantize(Sparse(0.45), rest=None),
                       LowRank(0.05, False))
    )  # fmt: skip
    return [
        finding("factors (figure) against zeros of equal size", zeros, plain, few, "a twentieth of the numbers"),
        finding("factors, trained (figure) against an error of 0.05", 0.05, trained, few, "a twentieth of the numbers"),
    ]
