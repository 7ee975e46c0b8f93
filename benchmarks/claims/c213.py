"""The ring, a trained teacher, one-step students after 500 steps of training without data; W2 distance to the
distribution. Score implicit matching with a pseudo-Huber distance against the teacher, against score identity
distillation with alpha = 1 (whose second part is this loss with the squared distance), and against DMD."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.games.matching import DMD, ScoreImplicitMatching, SiD
from benchmarks.claims.games import drawn, student, teacher
from benchmarks.claims.toys import RING, even, finding, network, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Score implicit matching"
CLAIM = "A pseudo-Huber distance of scores gives a better one-step student without data."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    flow, x0, (real, _) = teacher(rng), noise(rng), even(RING, rng)
    raw, once = (w2(sample(f, x0, 1), real) for f in (network(rng), flow.field))
    methods = (ScoreImplicitMatching(), SiD(), DMD(ratio=1))
    sim, sid, dmd = (w2(drawn(student(how, flow, rng, 500), x0), real) for how in methods)
    return [
        finding("W2: one-step student (figure) against the teacher in one step", once, sim, raw),
        finding("W2: pseudo-Huber distance (figure) against SiD", sid, sim, raw),
        finding("W2: pseudo-Huber distance (figure) against DMD, equal moves of the student", dmd, sim, raw),
    ]
