"""Relative error of weights [256,512] in 6 bits with one scale for a row: floating point e3m2 against integers;
Gaussian weights, and weights of which 0.2 percent are 20 times larger."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.levels import SmallFloats
from benchmarks.claims.storing import gauss, outliers, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ZeroQuant(4+2): floating point numbers of 6 bits"
CLAIM = "FP6 keeps the quality of 16 bits where integers of 4 bits lose it."


def measure(rng: bl.Rng) -> list[Finding]:
    plain, loud = gauss(rng), outliers(rng, 262)
    six, four = SmallFloats(3, 2), SmallFloats(2, 1, 4096)
    return [
        finding("Gaussian: FP6 (figure) against integers of 4 bits", weight_error(Integers(4, 4096), plain),
                weight_error(six, plain), weight_error(Integers(3, 4096), plain), "integers of 3 bits"),
        finding("with outliers: FP6 (figure) against integers of 6 bits", weight_error(Integers(6, 4096), loud),
                weight_error(six, loud), weight_error(four, loud) + weight_error(Integers(4, 4096), loud),
                "4 bits"),
        finding("Gaussian: FP6 (figure) against integers of 6 bits", weight_error(Integers(6, 4096), plain),
                weight_error(six, plain), weight_error(four, plain), "FP4"),
    ]  # fmt: skip
