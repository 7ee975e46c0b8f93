"""Relative error of Gaussian weights [256,512] with one scale for 128 numbers: small floating point numbers with a
level that every group chooses, against integers with an offset, and against one table."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.formats import OffsetIntegers
from beeline.networks.compressing.levels import BitMoD, Levels
from benchmarks.claims.storing import gauss, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "BitMoD: a data type for every group"
CLAIM = "Weights of 4 bits lose little, and those of 3 bits less than with other data types."


def measure(rng: bl.Rng) -> list[Finding]:
    w = gauss(rng)
    plain = Levels(((-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0),), 128)
    return [
        finding("3 bits: a chosen level (figure) against integers with an offset",
                weight_error(OffsetIntegers(3, 128), w), weight_error(BitMoD(3), w), weight_error(plain, w),
                "floating point without it"),
        finding("4 bits: a chosen level (figure) against integers with an offset",
                weight_error(OffsetIntegers(4, 128), w), weight_error(BitMoD(4), w), weight_error(BitMoD(3), w),
                "3 bits"),
    ]  # fmt: skip
