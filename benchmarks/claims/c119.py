"""The ring with its exact field as teacher: 400 steps from one start, with velocity matching and with velocity
distillation beside it. W2 distance and error of one and two steps."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.maps.others import MarginalDataTransport
from benchmarks.claims.maps import EULER, Students
from benchmarks.claims.toys import RING, even, finding, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "Marginal-data transport distillation"
CLAIM = "Velocity matching and velocity distillation together bring a student to one or two steps."


def measure(rng: bl.Rng) -> list[Finding]:
    students, (real, _) = Students(rng), even(RING, rng)
    euler, wanted = students.euler(), students.wanted
    matching = students.made(MarginalDataTransport(strength=0.0), (1, 2))
    both = students.made(MarginalDataTransport(strength=0.5), (1, 2))
    return [
        *(
            finding(f"{n} steps, W2: with velocity distillation (figure) against velocity matching alone",
                    w2(matching[n], real), w2(both[n], real), w2(euler, real), EULER)
            for n in (1, 2)
        ),
        finding("one step, error to the exact ends: with both (figure) against two Euler steps of the teacher",
                rmse(students.euler(2), wanted), rmse(both[1], wanted), rmse(euler, wanted), EULER),
    ]  # fmt: skip
