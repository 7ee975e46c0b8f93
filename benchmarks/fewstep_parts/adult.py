"""A student with one evaluation for the table Adult, against its teacher."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

import pandas as pd

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.data.tables.metrics.scores import ShapeError, TrendError
from beeline.data.tables.table import Table
from beeline.estimators.tabular import TabularFlow
from benchmarks.fewstep_parts import store
from benchmarks.tables import rows_of

SETTINGS = {"teacher_steps": 1500, "student_steps": 1500, "pairs": 30_000}  # the defaults are 3 to 4 times as much
TEACHER, STUDENT = "teacher", "OneStep"


def run(options: Namespace) -> None:
    """Train teacher and student for every seed that is missing."""
    require(options.tables is not None, "Adult needs its data; give --tables FOLDER with adult-train.csv")
    out = options.output or store.FILE
    for seed in range(options.seeds):
        if store.current("adult", STUDENT, seed, SETTINGS, out) and not options.again:
            continue
        raw, _, _ = rows_of(options.tables, "adult")
        for name, found in measure(raw, seed).items():
            store.add("adult", name, seed, {"settings": SETTINGS, **found}, out)
            print(f"adult seed {seed}: {name}: {found}", flush=True)


def measure(raw: pd.DataFrame, seed: int) -> dict[str, dict[str, Any]]:
    """Errors of the columns and of their pairs, evaluations and seconds of teacher and student."""
    begin = time.process_time()
    teacher = TabularFlow(steps=SETTINGS["teacher_steps"], random_state=seed).fit(raw)
    between = time.process_time()
    student = teacher.distill(SETTINGS["student_steps"], SETTINGS["pairs"])
    end = time.process_time()
    schema = Table().fit(raw).columns
    found = {}
    for name, flow, seconds in ((TEACHER, teacher, between - begin), (STUDENT, student, end - between)):
        made = flow.sample(len(raw), random_state=seed)
        found[name] = {
            "evaluations": flow.sampler_.evaluations,
            "cpu_seconds": round(seconds, 1),
            **{m.name: round(m(schema, raw, made, Rng(0)), 5) for m in (ShapeError(), TrendError())},
        }
    return found
