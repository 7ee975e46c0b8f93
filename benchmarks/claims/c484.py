"""Random networks of width 32 whose gates are 1: the variance of the stream after 32 branches of 1 at first, with
weights twice as large as those that keep it.  Digits of 8 x 8 pixels, four blocks: the held-out loss after 60 steps at
a learning rate that is ten times the usual one, and at the usual one."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.transformer.blocks import Peri, PreNorm, ReZero, Sizes
from beeline.networks.transformer.feeds import FeedForward
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import Attention
from benchmarks.claims.c174 import open_gates
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Peri-LN"
CLAIM = "Norms after the branches too keep the variance of the stream balanced and training steady."
SEEDS = 3


def growth(wiring: Any, rng: bl.Rng) -> float:
    """The variance after 16 blocks, of 1 at first, with random weights."""
    with rng.fork("blocks").ambient(), torch.no_grad():
        blocks = [wiring.build(Sizes(32, 2, 128, 0.0, (16,)), Attention(), FeedForward(), ReZero()) for _ in range(16)]
        h, e = torch.randn(8, 16, 32), torch.zeros(8, 32)
        for block in blocks:
            for p in (*block.mix.parameters(), *block.mlp.parameters()):
                p.mul_(2 * 3**0.5)  # nn.Linear draws a third of the variance that keeps that of its input
            h = open_gates(block)(h, e, Layout((16,)))
    return float(h.var())


def measure(rng: bl.Rng) -> list[Finding]:
    def loss(wiring: Any, peak: float) -> float:
        return held_loss(trained(transformer(rng, depth=4, wiring=wiring), rng, steps=60, peak=peak), rng)

    first = held_loss(transformer(rng, depth=4), rng)
    pre, peri = growth(PreNorm(), rng), growth(Peri(), rng)
    return [
        finding("variance after 32 branches: Peri (figure) against norms before alone", pre, peri, pre, "norms before"),
        *(
            finding(f"learning rate {peak}: Peri (figure) against norms before alone", loss(PreNorm(), peak),
                    loss(Peri(), peak), first)
            for peak in (3e-3, 3e-2)
        ),
    ]  # fmt: skip
