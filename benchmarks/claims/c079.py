"""Digits of 8 x 8 pixels: the held-out loss after 120 steps of transformers with equal parameters and 8 blocks,
3 blocks or 1 block, all with heads of 8 channels; and their multiply-adds."""

from __future__ import annotations

import beeline as bl
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding
from benchmarks.shapes import Shape, multiply_adds, parameters, shapes

METHOD = "Scale efficiently: deeper and narrower"
CLAIM = "Of networks with equal parameters, deeper and narrower ones are better."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    kinds = list(shapes(parameters(Shape(32, 3, 4, 4.0)), parameters, (8, 3, 1)))
    nets = [transformer(rng, depth=s.depth, width=s.width, heads=s.heads, ratio=s.ratio) for s in kinds]
    first = held_loss(nets[1], rng)
    deep, base, wide = (held_loss(trained(net, rng), rng) for net in nets)
    return [
        finding("8 blocks (figure) against 3", base, deep, first),
        finding("3 blocks (figure) against 1", wide, base, first),
        finding("multiply-adds in units of those of 3 blocks: 8 blocks (figure) against 3", 1.0,
                multiply_adds(kinds[0]) / multiply_adds(kinds[1]), 1.0, "3 blocks"),
    ]  # fmt: skip
