"""Energy distance of 360 samples to held-out digits of 8 x 8 pixels, 20 Euler steps: a network with patches of 2 x 2
after 100 steps, then tuned for 100 with patches of 4 x 4 at half of the times and its own at the others; the first
half of the sampling uses patches of 4 x 4, which have a quarter of the tokens (0.62 of the products of weights).
Compared with equal training of one size, and with as many products in fewer steps."""

from __future__ import annotations

import copy

import torch
from torch import nn

import beeline as bl
from beeline.networks.transformer.counts.flexi import FlexiPatches
from benchmarks.claims.small_transformers import (
    STEPS,
    digits,
    energy_distance,
    plain,
    same,
    start,
    trained,
    transformer,
)
from benchmarks.claims.toys import finding, sample
from benchmarks.claims.verdict import Finding

METHOD = "FlexiDiT: patches of two sizes"
CLAIM = "Large patches in the first part of sampling save more than 40 percent without a loss of quality."


class Either(nn.Module):
    """A network of two sizes of patches in training: each size for half of the samples, at all times."""

    def __init__(self, net: FlexiPatches):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
        half = len(x) // 2
        self.net.until = 1.1
        large = self.net(x[:half], t[:half])
        self.net.until = 0.0
        return torch.cat([large, self.net(x[half:], t[half:])])


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    one = trained(transformer(rng), rng, steps=2 * STEPS)
    base = copy.deepcopy(plain(rng.seed))
    flexi = FlexiPatches(base.backbone, 4)
    trained(Either(flexi), rng.fork("tuning"))
    flexi.until = 0.5
    real, x0 = digits()[1].x1, start(rng)
    untuned = FlexiPatches(one.backbone, 4, 0.5)
    own, fewer, raw, figure, first = (
        energy_distance(sample(f, x0, n), real)
        for f, n in ((one, 20), (one, 12), (untuned, 20), (flexi.eval(), 20), (transformer(rng), 20))
    )
    return [
        finding("large patches until t = 0.5 (figure) against one size, at most 5% worse", 1.05 * own, figure, first),
        finding("large patches until t = 0.5, 20 steps (figure) against one size, 12 steps", fewer, figure, first),
        finding("tuned for both sizes (figure) against resized weights", raw, figure, first),
    ]
