"""The ring, a trained teacher, students of two steps after 500 steps of training, of which 100 move the student; W2
distance to the distribution. Timestep sharing compares the student's own states at the times of its grid; the baseline
is fresh noise at random times. The paper's discriminator and its first stage on trajectories are not measured. The
merge starts from the student with fresh noise and is compared with as many more steps of one network."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.games.composed import SplitTimes
from beeline.distillation.games.matching import DMD2, SharedDMD
from benchmarks.claims.games import drawn, student, teacher
from benchmarks.claims.toys import RING, even, finding, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "SD3.5-Flash: timestep sharing, split-timestep finetuning"
CLAIM = "Scores at the student's own times reduce the noise of a few-step student; a merge of two copies adds capacity."
SEEDS = 4


def measure(rng: bl.Rng) -> list[Finding]:
    flow, x0, (real, _) = teacher(rng), noise(rng), even(RING, rng)
    fresh = DMD2(steps=2, adversarial=None)
    plain = student(fresh, flow, rng, 500)
    shared = student(SharedDMD(steps=2), flow, rng, 500)
    begun = bl.Flow(plain[0].field)
    longer = student(fresh, flow, rng.fork("two"), 250, start=begun)
    split = student(SplitTimes(steps=2), flow, rng.fork("two"), 250, start=begun)
    two = w2(sample(flow.field, x0, 2), real)
    return [
        finding("W2, 2 evaluations: timestep sharing (figure) against fresh noise", w2(drawn(plain, x0), real),
                w2(drawn(shared, x0), real), two, "the teacher in two steps"),
        finding("W2, 2 evaluations: merged copies (figure) against as many more steps of one",
                w2(drawn(longer, x0), real), w2(drawn(split, x0), real), two, "the teacher in two steps"),
    ]  # fmt: skip
