"""Digits of 8 x 8 pixels, one token a pixel, two blocks of width 32 with equal numbers of weights, 80 steps, 4 groups.
Milliseconds are those of one mixer of width 32 on 4096 tokens. The recursion of the paper is a plan of blocks and not
measured here."""

from __future__ import annotations

import time
from typing import Any

import torch

import beeline as bl
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixing.windows import SlicedAttention
from benchmarks.claims.mixing import HEADS, IMAGES, SOFTMAX, WIDTH, losses, pair
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "SReT: sliced attention"
CLAIM = "Attention in groups costs as much less as there are groups, at the same quality."
SEEDS = 3
GROUPS, REPEATS = 4, 6


def milliseconds(mixer: Any) -> float:
    """The least of several measurements."""
    grid, took = IMAGES[1], []
    with bl.Rng(0).ambient(), torch.no_grad():
        net, u = mixer.build(WIDTH, HEADS, grid), torch.randn(1, grid[0] * grid[1], WIDTH)
        for _ in range(REPEATS):
            begin = time.process_time()
            net(u, Layout(grid))
            took.append(1000 * (time.process_time() - begin))
    return min(took)


def measure(rng: bl.Rng) -> list[Finding]:
    soft, figure, one = map(milliseconds, (SOFTMAX, SlicedAttention(GROUPS), SlicedAttention(1)))
    return [
        *losses(pair(SlicedAttention(GROUPS), rng), rng),
        finding("milliseconds in four groups (figure) against softmax attention", soft, figure, one, "one group"),
    ]
