"""The ring, a trained teacher, one-step students after 300 steps of training; W2 distance to the distribution, and the
pairing as the rmse to the teacher's end of the same noise. An adversarial term alone on the teacher's features, with
and without the penalty R1 on its heads, against distribution matching (DMD) with as many moves of the student."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.games.matching import DMD
from benchmarks.claims.games import ONE_STEP_LADD, WITHOUT_R1, ZERO, made_by, shared, teacher, test_set
from benchmarks.claims.toys import finding, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "LADD: adversarial distillation on the teacher's features"
CLAIM = "Heads on the features of the frozen teacher are enough to distil it to one step."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    ladd, loose, dmd = (made_by(how, rng) for how in (ONE_STEP_LADD, WITHOUT_R1, DMD(ratio=1)))
    end = sample(flow.field, x0, 32)
    raw, once = w2(0 * x0, real), w2(sample(flow.field, x0, 1), real)
    return [
        finding("W2: LADD (figure) against the teacher in one step", once, w2(ladd, real), raw, ZERO),
        finding("W2: with R1 (figure) against without", w2(loose, real), w2(ladd, real), raw, ZERO),
        finding("W2: LADD (figure) against DMD, equal moves of the student", w2(dmd, real), w2(ladd, real), raw, ZERO),
        finding("pairing: LADD (figure) against DMD", rmse(dmd, end), rmse(ladd, end), rmse(0 * end, end), ZERO),
    ]
