"""Energy distance of 360 samples to held-out digits of 8 x 8 pixels: a transformer with two long skips after 240
steps, 10 Euler steps; factors of FreeU of the paper, and the best of four pairs, chosen with other noise. Factors of
the low frequencies act on a grid of 4 x 4 tokens."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.networks.dit import UViT
from beeline.networks.inference.long_skips import FreeU
from benchmarks.claims.small_transformers import digits, energy_distance, same, skipping, start, transformer
from benchmarks.claims.toys import finding, sample
from benchmarks.claims.verdict import Finding

METHOD = "FreeU"
CLAIM = "Factors of the backbone part and of low frequencies of the skips make samples better, without training."


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    net = skipping(rng.seed)
    real, chosen_by, x0 = digits()[1].x1, start(rng.fork("choice")), start(rng)

    def distance(field: Any, noise: Any) -> float:
        return energy_distance(sample(field, noise, 10), real)

    grid = [FreeU(net, (b, b), (s, s)) for b, s in ((1.0, 0.8), (1.05, 0.9), (1.1, 0.8), (1.1, 1.0))]
    best = min(grid, key=lambda field: distance(field, chosen_by))
    own, first = distance(net, x0), distance(transformer(rng, UViT), x0)
    return [
        finding(
            "b = 1.1 and 1.2, s = 0.9 and 0.8 (figure) against the network itself",
            own,
            distance(FreeU(net), x0),
            first,
        ),
        finding("the best of 4 pairs of factors (figure) against the network itself", own, distance(best, x0), first),
    ]
