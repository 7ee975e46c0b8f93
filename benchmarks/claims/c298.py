"""The ring with overlapping classes and its exact field: 256 points, which start from noise, are moved down the
score-distillation gradient towards their classes, 150 steps. Noise-free gradients at guidance scale two against plain
ones at the same scale and at scale 20; W2 distance to the class's own distribution, labels included, and the spread of
the points as a share of the true one."""

from __future__ import annotations

import torch
from torch import Tensor

import beeline as bl
from beeline.sampling.steering.energies.distilled import ScoreDistillation
from benchmarks.claims.c142 import NULL
from benchmarks.claims.games import shared
from benchmarks.claims.labelled import labelled_w2
from benchmarks.claims.toys import CLASSES, finding, noise
from benchmarks.claims.verdict import Finding

METHOD = "Noise-free score distillation"
CLAIM = "Without the noise term a usual guidance scale is enough, with less smoothing."
SEEDS, STEPS = 4, 150


def moved(x: Tensor, cond: dict[str, Tensor], rng: bl.Rng, scale: float, noise_free: bool) -> Tensor:
    flow = bl.Flow(CLASSES.field(), null={"label": NULL})
    for k in range(STEPS):
        step = ScoreDistillation(flow, scale, noise_free, samples=2, rng=rng.fork(k)).gradient(x, cond)
        x = x - 0.2 * step / step.norm(dim=1, keepdim=True).clamp(min=1.0)
    return x


def spread(x: Tensor, label: Tensor) -> float:
    return float(torch.stack([x[label == k].std(0).mean() for k in range(8)]).mean())


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    x0 = noise(rng, 256)
    label = torch.arange(256) % 8
    cond = {"label": label}
    real = bl.Sampler(40)(bl.Flow(CLASSES.field()), noise(rng.fork("real"), 256), cond)
    free, plain, strong = (moved(x0, cond, rng, *how) for how in ((2.0, True), (2.0, False), (20.0, False)))
    far, apart = labelled_w2(x0, real, label), spread(real, label)
    distances = [labelled_w2(x, real, label) for x in (free, plain, strong)]
    smooth = [abs(spread(x, label) / apart - 1) for x in (free, plain, strong)]
    control = "the noise itself"
    return [
        finding("W2 by class, scale 2: noise-free (figure) against plain", distances[1], distances[0], far, control),
        finding("W2 by class: noise-free at 2 (figure) against plain at 20", distances[2], distances[0], far, control),
        finding("error of the spread, scale 2: noise-free (figure) against plain", smooth[1], smooth[0],
                abs(spread(x0, label) / apart - 1), control),
    ]  # fmt: skip
