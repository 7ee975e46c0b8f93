"""Digits of 8 x 8 pixels, one token a pixel, two blocks of width 32 with equal numbers of weights, 80 steps of 16
digits. Samples of 16 x 16 are drawn without training for that size, with 10 steps; softmax attention has positions
of sines and cosines, the other none. Seconds are those of one mixer. The reach is 3 pixels."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.mixing.convolutions import Deformable
from beeline.networks.transformer.positions import NoPositions
from benchmarks.claims.mixing import growth, losses, pair, transfer
from benchmarks.claims.verdict import Finding

METHOD = "FlowDCN"
CLAIM = "Deformable convolutions are better than attention at linear cost and draw images of any size."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    mixer = Deformable(3.0)
    nets = pair(mixer, rng, batch=16, positions=NoPositions())
    return [*losses(nets, rng, better=True), *transfer(nets, rng), *growth(mixer)]
