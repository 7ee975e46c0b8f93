"""Digits of 8 x 8 pixels as sequences of 64 tokens, two blocks of width 32 with equal numbers of weights, 80 steps.
Seconds are those of one mixer of width 32. The order is causal."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.scans import RWKV
from benchmarks.claims.mixing import SEQUENCES, growth, losses, pair
from benchmarks.claims.verdict import Finding

METHOD = "RWKV-4"
CLAIM = "A linear recurrence has the quality of a transformer, at a cost that is linear in the length."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = RWKV()
    return [*losses(pair(mixer, rng, sequence=True), rng), *growth(mixer, SEQUENCES)]
