"""The ring with its exact field as teacher: a small network, 400 steps, from the same start. Errors of one step to the
exact ends, against consistency distillation in finite steps and against tangents that are not normalised."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.maps.consistency import Consistency, ContinuousConsistency
from beeline.objectives.losses.basic import squared
from beeline.objectives.maps.consistency import ContinuousConsistency as Objective
from benchmarks.claims.maps import EULER, Students
from benchmarks.claims.toys import finding, rmse
from benchmarks.claims.verdict import Finding

METHOD = "Continuous-time consistency models (sCM)"
CLAIM = "The consistency loss for a step of zero is better than that of finite steps, with normalised tangents."


def measure(rng: bl.Rng) -> list[Finding]:
    students = Students(rng)
    discrete, continuous = (students.errors(method)[1] for method in (Consistency(), ContinuousConsistency()))
    bare = students.errors(ContinuousConsistency(Objective(distance=squared, warmup=0.0)))[1]
    control = rmse(students.euler(), students.wanted)
    return [
        finding("one step: continuous (figure) against finite steps", discrete, continuous, control, EULER),
        finding("one step: normalised and warmed up (figure) against neither", bare, continuous, control, EULER),
    ]
