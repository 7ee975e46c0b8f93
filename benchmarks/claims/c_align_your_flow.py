"""The ring with its exact field as teacher: a small network, 400 steps, from one start. Errors to the exact ends in one
step, and W2 distance in four, where the consistency model jumps to the data with new noise."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.maps.consistency import Consistency
from beeline.distillation.maps.presets import AlignYourFlow, AlignYourFlowLagrangian
from beeline.objectives.losses.basic import squared
from beeline.objectives.maps.presets import AlignYourFlow as Objective
from benchmarks.claims.maps import EULER, Students
from benchmarks.claims.toys import RING, even, finding, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "Align Your Flow"
CLAIM = "Flow maps stay good at any number of steps, where consistency models do not; tangents are normalised."


def measure(rng: bl.Rng) -> list[Finding]:
    students, (real, _) = Students(rng), even(RING, rng)
    euler, wanted = students.euler(), students.wanted
    eulerian = students.made(AlignYourFlow(), (1, 4))
    lagrangian = students.made(AlignYourFlowLagrangian(), (1, 4))
    consistent = students.made(Consistency(), (4,))
    plain = AlignYourFlow().matching
    bare = students.errors(AlignYourFlow(Objective(spans=plain.spans, distance=squared)), (4,))
    return [
        finding("4 evaluations, W2: the Eulerian flow map (figure) against a consistency model",
                w2(consistent[4], real), w2(eulerian[4], real), w2(euler, real), EULER),
        finding("one evaluation: the Lagrangian form (figure) against the Eulerian one", rmse(eulerian[1], wanted),
                rmse(lagrangian[1], wanted), rmse(euler, wanted), EULER),
        finding("4 evaluations: with normalised tangents (figure) against without", bare[4], rmse(eulerian[4], wanted),
                rmse(euler, wanted), EULER),
    ]  # fmt: skip
