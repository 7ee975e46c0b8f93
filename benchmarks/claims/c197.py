"""The ring, a trained teacher, one-step students after 300 steps of training without data; W2 distance to the
distribution, against the teacher in one and in eight Euler steps. Score identity distillation with alpha = 1 against
distribution matching (DMD) with the same number of moves of the student."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.games.matching import DMD, SiD
from benchmarks.claims.games import ZERO, made_by, shared, teacher, test_set
from benchmarks.claims.toys import finding, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Score identity distillation (SiD)"
CLAIM = "One step without data comes near to the teacher, and improves fast."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    raw = w2(0 * x0, real)
    once, eight = (w2(sample(flow.field, x0, n), real) for n in (1, 8))
    sid, dmd = (w2(made_by(how, rng), real) for how in (SiD(), DMD(ratio=1)))
    return [
        finding("W2: one-step student (figure) against the teacher in one step", once, sid, raw, ZERO),
        finding("W2: one-step student (figure) against the teacher in 8 steps", eight, sid, raw, ZERO),
        finding("W2: SiD (figure) against DMD, equal moves of the student", dmd, sid, raw, ZERO),
    ]
