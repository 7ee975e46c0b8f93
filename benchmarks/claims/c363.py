"""Digits of 8 x 8 pixels, one token a pixel, two blocks of width 32 with equal numbers of weights, 80 steps. Samples
of 16 x 16 are drawn without training for that size, with 10 steps; softmax attention has positions of sines and
cosines, the other none. Seconds are those of one mixer. Kernels of 5 x 5 with 6 points."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.convolutions import PointConv
from beeline.networks.transformer.positions import NoPositions
from benchmarks.claims.mixing import growth, losses, pair, transfer
from benchmarks.claims.verdict import Finding

METHOD = "SMPConv: moving points"
CLAIM = "Continuous kernels of few points replace attention, and are sampled at other resolutions."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = PointConv(5, 6)
    nets = pair(mixer, rng, positions=NoPositions())
    return [*losses(nets, rng, better=True), *transfer(nets, rng), *growth(mixer)]
