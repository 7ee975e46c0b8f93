"""The ring, a trained teacher, one-step students after 500 steps of training; W2 distance to the distribution.
Variational score distillation uses no data: its batches are a template. The baselines are the teacher in few steps and
regression on 4,000 stored pairs (one-step distillation) with as many steps."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.games.matching import VariationalScore
from beeline.distillation.students import OneStep
from benchmarks.claims.games import drawn, modes, student, teacher
from benchmarks.claims.toys import RING, even, finding, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "SwiftBrush: variational score distillation in one step"
CLAIM = "A one-step student is distilled without images, by differences of scores."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    flow, x0, (real, _) = teacher(rng), noise(rng), even(RING, rng)
    raw, once, four = (w2(sample(f, x0, n), real) for f, n in ((network(rng), 1), (flow.field, 1), (flow.field, 4)))
    empty = bl.Batch(torch.zeros(1000, 2))  # no datum is used
    made = drawn(student(VariationalScore(), flow, rng, 500, data=empty), x0)
    pairs = OneStep(bl.Sampler(16, solver=bl.solvers.HEUN), count=4000)
    paired = drawn(student(pairs, flow, rng, 500, data=points(rng)), x0)
    return [
        finding("W2: student without data (figure) against the teacher in one step", once, w2(made, real), raw),
        finding("W2: student without data (figure) against the teacher in 4 steps", four, w2(made, real), raw),
        finding("W2: student without data (figure) against regression on pairs", w2(paired, real),
                w2(made, real), raw),
        finding("share of the modes that are kept (figure) against the teacher in one step",
                modes(sample(flow.field, x0, 1)), modes(made), modes(sample(network(rng), x0, 1)), better="higher"),
    ]  # fmt: skip
