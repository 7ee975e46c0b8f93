"""Relative error of Gaussian weights [256,512] as signs and powers of two: more bits, and against integers."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.levels import PowersOfTwo
from benchmarks.claims.storing import gauss, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DenseShift: powers of two without zero"
CLAIM = "Weights as powers of two reach the accuracy of full precision."


def measure(rng: bl.Rng) -> list[Finding]:
    w = gauss(rng)
    two, three, four = (weight_error(PowersOfTwo(bits), w) for bits in (2, 3, 4))
    return [
        finding("3 bits, without training: powers of two (figure) against integers", weight_error(Integers(3), w),
                three, two, "2 bits"),
        finding("4 bits, without training: powers of two (figure) against integers", weight_error(Integers(4), w),
                four, two, "2 bits"),
    ]  # fmt: skip
