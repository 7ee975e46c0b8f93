"""The ring, a trained teacher, one-step students after 300 steps of training; W2 distance to the distribution.
Variational score distillation uses no data: its batches are a template. The baselines are the teacher in few steps and
regression on 2,000 stored pairs (one-step distillation) with as many steps."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.games.matching import VariationalScore
from beeline.distillation.students import OneStep
from benchmarks.claims.games import ZERO, drawn, made_by, modes, shared, student, teacher, test_set
from benchmarks.claims.toys import finding, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "SwiftBrush: variational score distillation in one step"
CLAIM = "A one-step student is distilled without images, by differences of scores."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    once, four = (sample(flow.field, x0, n) for n in (1, 4))
    made = drawn(student(VariationalScore(), flow, rng, data=bl.Batch(torch.zeros(1000, 2))), x0)
    paired = made_by(OneStep(bl.Sampler(8), count=2000), rng)
    raw, found = w2(0 * x0, real), w2(made, real)
    return [
        finding("W2: student without data (figure) against the teacher in one step", w2(once, real), found, raw, ZERO),
        finding("W2: student without data (figure) against the teacher in 4 steps", w2(four, real), found, raw, ZERO),
        finding("W2: student without data (figure) against regression on pairs", w2(paired, real), found, raw, ZERO),
        finding("share of the modes that are kept (figure) against the teacher in one step", modes(once), modes(made),
                modes(0 * x0), ZERO, better="higher"),
    ]  # fmt: skip
