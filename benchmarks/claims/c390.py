"""Digits of 8 x 8 pixels, one token a pixel, two blocks of width 32 with equal numbers of weights, 80 steps of 16
digits. Samples of 16 x 16 are drawn without training for that size, with 10 steps; softmax attention has positions
of sines and cosines, as has the other. Seconds are those of one mixer."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.scans import Selective
from benchmarks.claims.mixing import growth, losses, pair, transfer
from benchmarks.claims.verdict import Finding

METHOD = "DiM: selective state spaces"
CLAIM = "State spaces scanned in several directions replace attention and draw larger images without training."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = Selective(8)
    nets = pair(mixer, rng, batch=16)
    return [*losses(nets, rng), *transfer(nets, rng), *growth(mixer)]
