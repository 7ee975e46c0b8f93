"""The ring, a trained teacher, students of two steps after 300 steps of training; W2 distance to the distribution.
States of backward simulation against noised data as inputs of the student, the adversarial term (weight 0.001) against
none, and five moves of the fake network per move of the student against one, at equal numbers of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import beeline as bl
from beeline.core.ranges import dataclass
from beeline.distillation.games.matching import DMD2
from beeline.objectives.games.generation import FromNoisedData
from benchmarks.claims.games import made_by, shared, teacher, test_set
from benchmarks.claims.toys import finding, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "DMD2: improved distribution matching distillation"
CLAIM = "Backward simulation, a critic on data and several moves of the fake network make a better few-step student."
SEEDS, CONTROL = 3, "the teacher in two steps"


@dataclass(frozen=True)
class OnNoisedData(DMD2):
    """The same with noised data as the inputs of the student."""

    def game(self, teacher: bl.Flow) -> Any:
        return replace(super().game(teacher), generation=FromNoisedData(self.steps, self.schedule))


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    plain = DMD2(ratio=1, steps=2, adversarial=None)
    methods = (plain, OnNoisedData(ratio=1, steps=2, adversarial=None), DMD2(ratio=1, steps=2), replace(plain, ratio=5))
    simulated, noised, judged, five = (w2(made_by(how, rng), real) for how in methods)
    two = w2(sample(flow.field, x0, 2), real)
    return [
        finding("W2, 2 evaluations: DMD2 (figure) against the teacher", two, judged, two, CONTROL),
        finding("W2, 2 evaluations: backward simulation (figure) against noised data", noised, simulated, two, CONTROL),
        finding("W2, 2 evaluations: with a critic (figure) against without", simulated, judged, two, CONTROL),
        finding("W2, 2 evaluations: five moves per move of the student (figure) against one", simulated, five, two,
                CONTROL),
    ]  # fmt: skip
