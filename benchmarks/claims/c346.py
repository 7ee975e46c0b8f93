"""A small transformer with rotary positions, trained on digits of 8 x 8 pixels and sampled at 16 x 16: the sliced
Wasserstein distance of halved samples to held-out digits. Scale fusion alone, without the restarts of the paper."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.scale_fusion import ScaleFused
from benchmarks.claims.sizes import LARGE, STEPS, TOKENS, distance, fields, halved, start
from benchmarks.claims.toys import finding, sample
from benchmarks.claims.verdict import Finding

METHOD = "FreeScale: scale fusion"
CLAIM = "Fusing attention in windows of the trained size with attention over all gives better samples above it."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    net, untrained = fields(rng.seed)
    x0 = start(rng, LARGE)
    made = sample(net, x0, STEPS), *(sample(ScaleFused(f, TOKENS), x0, STEPS) for f in (net, untrained))
    return [finding("halved samples to digits: scale fusion (figure) against none",
                    *(distance(halved(x), rng) for x in made))]  # fmt: skip
