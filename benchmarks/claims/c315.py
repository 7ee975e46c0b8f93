"""Digits of 8 x 8 pixels as sequences of 64 tokens, two blocks of width 32 with equal numbers of weights, 80 steps.
Seconds are those of one mixer of width 32."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.scans import RationalSSM
from benchmarks.claims.mixing import SEQUENCES, growth, losses, pair
from benchmarks.claims.verdict import Finding

METHOD = "RTF: rational transfer functions"
CLAIM = (
    "Filters with a rational transfer function train on long sequences at a cost that does not depend on their state."
)
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = RationalSSM()
    return [*losses(pair(mixer, rng, sequence=True), rng), *growth(mixer, SEQUENCES)]
