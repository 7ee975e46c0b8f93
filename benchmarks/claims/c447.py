"""Digits of 8 x 8 pixels, one token a pixel, two blocks of width 32 with equal numbers of weights, 80 steps. Seconds
are those of one mixer of width 32."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.scans import BiRWKV
from benchmarks.claims.mixing import growth, losses, pair
from benchmarks.claims.verdict import Finding

METHOD = "Diffusion-RWKV"
CLAIM = "Recurrences in both directions are on par with attention, at a cost that is linear in the tokens."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = BiRWKV()
    return [*losses(pair(mixer, rng), rng), *growth(mixer)]
