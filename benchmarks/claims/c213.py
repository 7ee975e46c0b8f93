"""The ring, a trained teacher, one-step students after 300 steps of training without data; W2 distance to the
distribution. Score implicit matching with a pseudo-Huber distance against the teacher, against score identity
distillation with alpha = 1 (whose second part is this loss with the squared distance), and against DMD."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.games.matching import DMD, ScoreImplicitMatching, SiD
from benchmarks.claims.games import ZERO, made_by, shared, teacher, test_set
from benchmarks.claims.toys import finding, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Score implicit matching"
CLAIM = "A pseudo-Huber distance of scores gives a better one-step student without data."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    raw, once = w2(0 * x0, real), w2(sample(flow.field, x0, 1), real)
    sim, sid, dmd = (w2(made_by(how, rng), real) for how in (ScoreImplicitMatching(), SiD(), DMD(ratio=1)))
    return [
        finding("W2: one-step student (figure) against the teacher in one step", once, sim, raw, ZERO),
        finding("W2: pseudo-Huber distance (figure) against SiD", sid, sim, raw, ZERO),
        finding("W2: pseudo-Huber distance (figure) against DMD, equal moves of the student", dmd, sim, raw, ZERO),
    ]
