"""Twelve small transformers of the digits (8 x 8 pixels, four tokens), three shapes of each of four sizes. The score
of an untrained network is minus its distance from an untrained larger one on 64 states: of the correlations of its
tokens, and of those of its samples, by the outputs of the last block; mean of three starts. Correlations of tokens
stand for those of class maps, as there are no classes; gates of blocks, which start at zero, are random for the
score. The figure is the rank correlation of the scores with minus the held-out errors after 60 steps of distillation
from a trained network, which should be above 0.5. The evolution over scores, and its time, are not measured."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from scipy.stats import spearmanr
from torch import Tensor

import beeline as bl
from beeline.networks.transformer.plans.elastic import transformer_in
from benchmarks.claims.c252 import Taught
from benchmarks.claims.elastic import alone, mean
from benchmarks.claims.small_transformers import digits, same, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DisWOT: students are ranked without training"
CLAIM = "Similarities of untrained networks to the teacher rank students by their quality after distillation."
STEPS, STARTS = 60, 3
SIZES: tuple[tuple[tuple[int, int, float], ...], ...] = (  # blocks, width, hidden channels over width
    ((1, 24, 3.0), (2, 16, 4.0), (3, 16, 1.0)),
    ((1, 32, 4.0), (2, 24, 3.0), (4, 16, 4.0)),
    ((2, 32, 4.0), (3, 28, 2.8), (4, 24, 3.0)),
    ((3, 32, 4.0), (4, 28, 3.8), (6, 24, 3.0)),
)


def network(rng: bl.Rng, depth: int, width: int, ratio: float) -> bl.Network:
    return transformer(rng, patch=4, heads=4, depth=depth, width=width, ratio=ratio)


def relations(net: Any, rng: bl.Rng, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Correlations of tokens [B,N,N] and of samples [B,B] at the output of the last block, with random gates."""
    seen: list[Tensor] = []
    block = transformer_in(net, "relations").visits[-1][1]
    handle = block.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            if not p.any():
                p.copy_(0.1 * rng.fork(k).normal(p))
        net(x, t)
    handle.remove()
    h = seen[0]
    tokens, samples = F.normalize(h, dim=-1), F.normalize(h.flatten(1), dim=-1)
    return tokens @ tokens.mT, samples @ samples.mT


def score(rng: bl.Rng, shape: tuple[int, int, float], x: Tensor, t: Tensor) -> float:
    """Minus the distance from a network of four blocks of width 32, of means of three starts."""
    apart = []
    for k in range(STARTS):
        key = rng.fork("start", k)
        pair = (relations(network(key, *s), key, x, t) for s in (shape, (4, 32, 4.0)))
        apart.append(mean([float((a - b).norm() / b.norm()) for a, b in zip(*pair, strict=True)]))
    return -mean(apart)


def measure(rng: bl.Rng) -> list[Finding]:
    teacher = alone(rng.seed).requires_grad_(False)
    held = bl.Batch(digits()[1].x1)
    x, t = rng.fork("x").normal(held.x1[:64]), rng.fork("t").uniform(64, held.x1)
    x = x + t[:, None, None, None] * (held.x1[:64] - x)
    quality, scores, weights = [], [], []
    for group in SIZES:
        for shape in group:
            net = trained(network(same(rng), *shape), same(rng), Taught(teacher=teacher), STEPS)
            with torch.no_grad():
                quality.append(-float(Taught(teacher=teacher)(net, held, bl.Rng(0)).value))
            scores.append(score(rng, shape, x, t))
            weights.append(float(sum(p.numel() for p in net.parameters())))
    widths = [float(width) for group in SIZES for _, width, _ in group]
    drawn = rng.fork("drawn").normal(torch.empty(len(quality))).tolist()

    def rank(values: list[float], count: int = len(quality)) -> float:
        """The rank correlation with quality: of all, or the mean of those within one size."""
        groups = range(0, len(quality), count)
        return mean([float(spearmanr(values[k : k + count], quality[k : k + count]).statistic) for k in groups])

    drawn_rank, name = rank(drawn), "a random order"
    return [
        finding("rank correlation of the score with the quality (figure) against 0.5", 0.5, rank(scores), drawn_rank,
                name, "higher"),
        finding("rank correlation with the quality: score (figure) against number of weights", rank(weights),
                rank(scores), drawn_rank, name, "higher"),
        finding("rank correlation with the quality: score (figure) against width", rank(widths), rank(scores),
                drawn_rank, name, "higher"),
        finding("mean rank correlation among shapes of one size: score (figure) against 0.5", 0.5, rank(scores, 3),
                rank(drawn, 3), name, "higher"),
    ]  # fmt: skip
