"""Digits of 8 x 8 pixels, one token a pixel, two blocks of width 32 with equal numbers of weights, 80 steps. Seconds
are those of one mixer of width 32. Windows of 4 x 4 tokens with 4 latents, which do not live from block to block as
in the paper."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.windows import WindowsWithLatents
from benchmarks.claims.mixing import growth, losses, pair
from benchmarks.claims.verdict import Finding

METHOD = "FIT: windows and latents"
CLAIM = "Local attention and a few latents for each window replace attention over all tokens."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = WindowsWithLatents(4)
    return [*losses(pair(mixer, rng), rng), *growth(mixer)]
