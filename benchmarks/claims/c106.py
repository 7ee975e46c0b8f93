"""Relative error of Gaussian weights [256,512] of which 256 are 20 times larger, as integers of 4 bits: one scale for
64 numbers against one for a row of 512; control: one for 512."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.formats import Integers
from benchmarks.claims.storing import outliers, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Blockwise compression: a scale for every block of numbers"
CLAIM = "Transformers are compressed almost eight times without retraining."


def measure(rng: bl.Rng) -> list[Finding]:
    w = outliers(rng, 256)
    row, blocks, same = (weight_error(Integers(bits, group), w) for bits, group in ((4, 4096), (4, 64), (4, 512)))
    small = weight_error(Integers(4, 512), w)
    return [
        finding("4 bits: a scale for 64 (figure) against a scale for a row", row, blocks, same, "a scale for 512"),
        finding("7.9 times smaller than float32 (figure) against an error of 0.15", 0.15, small,
                weight_error(Integers(2, 64), w), "2 bits"),
    ]  # fmt: skip
