"""The ring, a trained teacher, students of two steps after 300 steps of training; W2 distance to the distribution.
Timestep sharing compares the student's own states at the times of its grid; the baseline is fresh noise at random
times. The paper's discriminator and its first stage on trajectories are not measured. The merge starts from the student
with fresh noise and is compared with as many more steps of one network."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.games.composed import SplitTimes
from beeline.distillation.games.matching import DMD2, SharedDMD
from benchmarks.claims.games import drawn, made_by, shared, student, teacher, test_set, usual
from benchmarks.claims.toys import finding, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "SD3.5-Flash: timestep sharing, split-timestep finetuning"
CLAIM = "Scores at the student's own times reduce the noise of a few-step student; a merge of two copies adds capacity."
SEEDS, CONTROL = 3, "the teacher in two steps"


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    fresh = DMD2(ratio=1, steps=2, adversarial=None)
    begun = usual(fresh, rng)[0].field
    longer = student(fresh, flow, rng.fork("two"), 150, start=begun)
    split = student(SplitTimes(ratio=1, steps=2), flow, rng.fork("two"), 150, start=begun)
    two = w2(sample(flow.field, x0, 2), real)
    return [
        finding("W2, 2 evaluations: timestep sharing (figure) against fresh noise", w2(made_by(fresh, rng), real),
                w2(made_by(SharedDMD(ratio=1, steps=2), rng), real), two, CONTROL),
        finding("W2, 2 evaluations: merged copies (figure) against as many more steps of one",
                w2(drawn(longer, x0), real), w2(drawn(split, x0), real), two, CONTROL),
    ]  # fmt: skip
