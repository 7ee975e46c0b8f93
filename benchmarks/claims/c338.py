"""The ring with overlapping classes and a trained teacher: one-step students by variational score distillation, 300
steps. The guidance scale of the teacher is drawn from one to three for every sample, against the fixed scale of two;
W2 distance to exactly guided samples of scale two. Negative attention at sampling is not measured."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.games.matching import RandomGuidance, VariationalScore
from benchmarks.claims.c142 import SCALE, guided
from benchmarks.claims.games import shared
from benchmarks.claims.guided import drawn, teacher, train
from benchmarks.claims.toys import CLASSES, finding, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "SNOOPI: random guidance of the teacher"
CLAIM = "A random guidance scale makes one-step variational score distillation better and more stable."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, x0 = teacher(rng), noise(rng)
    wanted = guided(CLASSES.field(), x0, {"label": torch.arange(len(x0)) % 8}, 60)
    random, fixed = (
        w2(drawn(train(how, flow, rng, peak=1e-3), flow, x0, 1), wanted)
        for how in (RandomGuidance(scales=(1.0, 3.0)), VariationalScore(guidance=bl.CFG(SCALE)))
    )
    raw, once = w2(0 * x0, wanted), w2(drawn(flow.field, flow, x0, 1), wanted)
    control = "all samples at zero"
    return [
        finding("W2: random scale (figure) against the teacher in one step", once, random, raw, control),
        finding("W2: random scale (figure) against a fixed one", fixed, random, raw, control),
    ]
