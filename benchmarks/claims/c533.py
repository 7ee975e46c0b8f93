"""Relative error of Gaussian weights [256,512] after 1 to 4 blocks of signs, and against integers of as many bits."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.factors import Signs
from beeline.networks.compressing.formats import Integers
from benchmarks.claims.storing import gauss, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "BitStack: blocks of signs, one on the rest of the other"
CLAIM = "It matches quantization, and its size is chosen in small steps."


def measure(rng: bl.Rng) -> list[Finding]:
    w = gauss(rng)
    blocks = [weight_error(Signs(k), w) for k in (1, 2, 3, 4)]
    return [
        finding("2 bits: blocks of signs (figure) against integers", weight_error(Integers(2), w), blocks[1],
                weight_error(Integers(2, 4096), w), "integers with one scale for a row"),
        finding("4 bits: blocks of signs (figure) against integers", weight_error(Integers(4), w), blocks[3],
                blocks[2], "3 blocks"),
        finding("the third block (figure) against two", blocks[1], blocks[2], blocks[0], "1 block"),
    ]  # fmt: skip
