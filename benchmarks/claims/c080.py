"""The ring with its exact field as teacher: 400 steps from one start with all three terms, without the comparison at
the data end, and without the velocity. Errors of one and two steps to the exact ends."""

from __future__ import annotations

from dataclasses import replace

import beeline as bl
from beeline.distillation.maps.consistency import TraFlow
from benchmarks.claims.maps import EULER, Students
from benchmarks.claims.toys import finding, rmse
from benchmarks.claims.verdict import Finding

METHOD = "TraFlow: trajectory distillation"
CLAIM = "The terms of output, velocity and self-consistency together give few-step generation without a solver."


def measure(rng: bl.Rng) -> list[Finding]:
    students = Students(rng)
    control = rmse(students.euler(), students.wanted)
    whole = students.errors(TraFlow(), (1, 2))
    output = students.errors(TraFlow(strength=0.0), (1, 2))
    spans = replace(TraFlow().matching.spans, diagonal=0.0)
    still = students.errors(TraFlow(replace(TraFlow().matching, spans=spans)), (1, 2))
    two = rmse(students.euler(8), students.wanted)
    return [
        finding("one step: all terms (figure) against eight Euler steps of the teacher", two, whole[1], control, EULER),
        *(
            finding(f"{n} steps: all terms (figure) against no comparison at the data end", output[n], whole[n],
                    control, EULER)
            for n in (1, 2)
        ),
        *(finding(f"{n} steps: all terms (figure) against no velocity", still[n], whole[n], control, EULER)
          for n in (1, 2)),
    ]  # fmt: skip
