"""The ring, a trained teacher, and a one-step student of a third of the width from random weights, with 300 steps in
all: half of them regression on 2,000 pairs with a distance in fixed random features (the warm-up), half of them
variational score distillation. Against score distillation alone and regression alone, equally long; W2 distance. The
smaller decoder and the control branch of the paper are not measured."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.games.matching import VariationalScore
from beeline.distillation.students import OneStep
from beeline.objectives.losses.distances import Perceptual
from benchmarks.claims.games import STEPS, ZERO, drawn, shared, student, teacher, test_set
from benchmarks.claims.toys import finding, network, w2
from benchmarks.claims.verdict import Finding

METHOD = "SDXS: feature matching, then score distillation"
CLAIM = "A small one-step student needs a warm-up by feature matching before score distillation."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    small = network(rng, width=24)
    pairs = OneStep(bl.Sampler(8), count=2000, distance=Perceptual(plain=1.0))
    warm = student(pairs, flow, rng, STEPS // 2, start=small, peak=3e-3)
    both = student(VariationalScore(), flow, rng, STEPS // 2, start=warm[0].field)
    score = student(VariationalScore(), flow, rng, STEPS, start=small, peak=3e-3)
    regression = student(pairs, flow, rng, STEPS, start=small, peak=3e-3)
    made = [w2(drawn(one, x0), real) for one in (both, score, regression)]
    raw = w2(0 * x0, real)
    return [
        finding("W2: warm-up and score distillation (figure) against score distillation", made[1], made[0], raw,
                ZERO),
        finding("W2: warm-up and score distillation (figure) against regression", made[2], made[0], raw,
                ZERO),
    ]  # fmt: skip
