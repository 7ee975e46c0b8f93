"""Velocities of a small flow of the ring at equal bytes: bits of layers chosen by dynamic programming on the errors of
their outputs against equal bits."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.mixed import MixedBits
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.rounding import OptimalBrain
from benchmarks.claims.storing import ring, smaller, velocity_change
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Rate and distortion: bits of layers by dynamic programming"
CLAIM = "Up to 4.7 points better than equal shares at equal size."


def measure(rng: bl.Rng) -> list[Finding]:
    net, found = ring(rng.seed), []
    for bits in (3, 4):
        equal = Quantize(Integers(bits, 64, OptimalBrain()))
        share = stored_bytes(smaller(equal, net, rng)) / stored_bytes(net) + 1e-6
        less = Quantize(Integers(bits - 1, 64, OptimalBrain()))
        plain, chosen, worse = (velocity_change(m, net, rng) for m in (equal, MixedBits(share), less))
        found.append(finding(f"bytes of {bits} bits: chosen (figure) against equal", plain, chosen, worse,
                             "a bit less"))  # fmt: skip
    return found
