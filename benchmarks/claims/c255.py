"""Energy distance of 360 samples to held-out digits of 8 x 8 pixels: a transformer with two long skips after 240
steps; skips times a factor from 0.7 to 0.95 that is chosen with other noise, at 5 Euler steps. The loss of the
velocity under the factor is a row of its own: the paper reports that it rises."""

from __future__ import annotations

import beeline as bl
from beeline.networks.dit import UViT
from beeline.networks.inference.long_skips import SkipTuned
from benchmarks.claims.small_transformers import digits, energy_distance, heldout, same, skipping, start, transformer
from benchmarks.claims.toys import finding, sample
from benchmarks.claims.verdict import Finding

METHOD = "Skip-tuning"
CLAIM = "Long skips times a factor below one make samples of few steps much better, without training."


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    net = skipping(rng.seed)
    real, chosen_by, x0 = digits()[1].x1, start(rng.fork("choice")), start(rng)
    fields = [SkipTuned(net, rho, rho) for rho in (0.7, 0.8, 0.85, 0.9, 0.95)]
    best = min(fields, key=lambda field: energy_distance(sample(field, chosen_by, 5), real))
    own, figure, first = (energy_distance(sample(f, x0, 5), real) for f in (net, best, transformer(rng, UViT)))
    loss, raised, untrained = (heldout(f, rng) for f in (net, best, transformer(rng, UViT)))
    return [
        finding("5 steps: the best factor (figure) against 1", own, figure, first),
        finding("loss of the velocity with that factor (figure) against 1", loss, raised, untrained),
    ]
