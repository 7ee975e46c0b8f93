"""Digits of 8 x 8 pixels, one token a pixel, two blocks of width 32 with equal numbers of weights, 80 steps. Samples
of 16 x 16 are drawn without training for that size, with 10 steps; softmax attention has positions of sines and
cosines, the other none. Seconds are those of one mixer. Kernels of 3 x 3, two levels."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.convolutions import RecConv
from beeline.networks.transformer.positions import NoPositions
from benchmarks.claims.mixing import growth, losses, pair, transfer
from benchmarks.claims.verdict import Finding

METHOD = "RecConv: recursive convolutions"
CLAIM = "A large kernel made of small ones is a better mixer at few weights and linear cost."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = RecConv(3)
    nets = pair(mixer, rng, positions=NoPositions())
    return [*losses(nets, rng, better=True), *transfer(nets, rng), *growth(mixer)]
