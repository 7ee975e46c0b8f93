"""The ring with its exact field as teacher, from one start: one step of a student that has seen no data, against
steps of the teacher (whose Euler steps are those of DDIM on this path) and a student that has."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.maps.presets import AlignYourFlowLagrangian, Bootstrapping
from benchmarks.claims.maps import EULER, Students
from benchmarks.claims.toys import RING, even, finding, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "BOOT: data-free distillation by bootstrapping"
CLAIM = "Without any data, one step of the student is comparable to the few-step sampler of the teacher."


def measure(rng: bl.Rng) -> list[Finding]:
    students, (real, _) = Students(rng), even(RING, rng)
    euler, wanted = students.euler(), students.wanted
    booted = students.made(Bootstrapping())[1]
    mapped = students.made(AlignYourFlowLagrangian())[1]
    return [
        finding("W2: one step (figure) against four Euler steps of the teacher", w2(students.euler(4), real),
                w2(booted, real), w2(euler, real), EULER),
        finding("error to the exact ends: without data (figure) against the same identity on data",
                rmse(mapped, wanted), rmse(booted, wanted), rmse(euler, wanted), EULER),
    ]  # fmt: skip
