"""Digits of 8 x 8 pixels, one token a pixel, two blocks of width 32 with equal numbers of weights, 80 steps. Seconds
are those of one mixer of width 32. Windows of 4 x 4 tokens."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.windows import Multipole
from benchmarks.claims.mixing import growth, losses, pair
from benchmarks.claims.verdict import Finding

METHOD = "MANO: multipole attention"
CLAIM = "Windows on a pyramid have the quality of full attention at linear cost."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = Multipole(4)
    return [*losses(pair(mixer, rng), rng), *growth(mixer)]
