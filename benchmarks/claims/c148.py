"""Velocities of a small flow of the ring with inner layers of 2 and 3 bits: 300 steps of training through the
rounding, on states of the flow's own sampling, against none, and against GPTQ."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.recover import Recovered
from beeline.networks.compressing.rounding import OptimalBrain
from benchmarks.claims.storing import ring, velocity_change
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "LLM-QAT: training through the rounding without data"
CLAIM = "Large gains over methods without training, without data."


def measure(rng: bl.Rng) -> list[Finding]:
    net, found = ring(rng.seed), []
    for bits in (2, 3):
        plain, careful = (Quantize(Integers(bits, 64, *how), rest=None) for how in ((), (OptimalBrain(),)))
        nearest, brain, trained = (velocity_change(m, net, rng) for m in (plain, careful, Recovered(plain)))
        found += [
            finding(f"{bits} bits: trained (figure) against nearest", nearest, trained, nearest, "no training"),
            finding(f"{bits} bits: trained (figure) against GPTQ", brain, trained, max(nearest, brain), "nearest"),
        ]
    return found
