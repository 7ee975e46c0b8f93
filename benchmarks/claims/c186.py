"""Velocities of a small flow of the ring with inner layers of 3 and 4 bits: biases that take the change of the mean
output against none."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.quantize import Quantize
from benchmarks.claims.storing import ring, velocity_change
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Data-free quantization: correction of biases"
CLAIM = "Integers of 8 bits come near the original without data."


def measure(rng: bl.Rng) -> list[Finding]:
    net = ring(rng.seed)
    found = []
    for bits in (3, 4):
        plain, means, coarse = (
            velocity_change(Quantize(Integers(b, 64), rest=None, means=m), net, rng)
            for b, m in ((bits, False), (bits, True), (bits - 1, False))
        )
        found.append(
            finding(f"{bits} bits: corrected biases (figure) against none", plain, means, coarse, "a bit less")
        )
    eight, two = (velocity_change(Quantize(Integers(b, 64), rest=None, means=True), net, rng) for b in (8, 2))
    return [*found, finding("8 bits, corrected (figure) against an error of 0.01", 0.01, eight, two, "2 bits")]
