"""Trains the student of one method by a number of passes, and measures it."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import beeline as bl
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.training import Distillation
from beeline.core.types import take
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.training import checkpoint
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks.fewstep_parts.engine import student_loop
from benchmarks.fewstep_parts.methods import Row
from benchmarks.fewstep_parts.passes import Passes
from benchmarks.fewstep_parts.worlds import World

EVALUATIONS = (1, 2, 4, 8, 32)
PROBED = 10  # steps from which the passes of a step are estimated
PAIRS = 0.5  # largest share of the passes that is spent on the data of a method
SHOWN = 10  # samples in the picture of a method


@dataclass(frozen=True)
class Plan:
    """How the passes of a student are spent."""

    rows: int  # data of the teacher that the method is given
    steps: int
    for_data: float  # passes
    for_step: float  # passes of one step


def training_of(world: World, steps: int) -> bl.Training:
    lr = WarmupCosine(world.size.lr / 2, min(100, max(1, steps // 10)))  # students start from trained weights
    return bl.Training(steps=steps, batch_size=world.size.batch, lr=lr, ema=EMA(), checkpoint_every=200)


def counter(world: World) -> Passes:
    one = take(world.data, torch.zeros(1, dtype=torch.long))
    return Passes(world.teacher, one.x1, one.cond)


def planned(method: Distillation, world: World, initial: bl.Flow, rng: bl.Rng) -> Plan:
    """The data and steps with which a method takes the passes of the world."""
    budget, total = world.size.budget, len(world.data.x1)
    with counter(world) as counted:
        few = method.data(
            world.teacher, take(world.data, torch.arange(min(64, world.size.batch, total))), rng.fork("probe")
        )
    each = counted.count / len(few.x1)
    rows = max(1, min(total, int(PAIRS * budget / each))) if each else total
    training = training_of(world, PROBED)
    loop = student_loop(method, world.teacher, initial, few, replace(training, batch_size=len(few.x1)), rng)
    with counter(world) as counted:
        for _ in range(PROBED):
            loop.step()
    step = counted.count / PROBED * world.size.batch / len(few.x1)
    steps = int((budget - rows * each) / step)
    require(
        steps >= PROBED,
        f"{type(method).__name__} takes {step:,.0f} passes a step and {rows * each:,.0f} for its data, so that a "
        f"budget of {budget:,} passes allows {steps} steps; give a larger --budget",
    )
    return Plan(rows, steps, rows * each, step)


def measure(row: Row, world: World, seed: int, folder: Path) -> dict[str, Any]:
    """Train a student and measure it; a stopped training continues from ``folder``."""
    method, rng = row.build(), bl.Rng(seed).fork("student")
    initial = replace(world.teacher, field=world.narrow(rng)) if row.narrow else world.teacher
    plan = planned(method, world, initial, rng)
    wall, cpu = time.perf_counter(), time.process_time()
    chosen = rng.fork("rows").permutation(len(world.data.x1))[: plan.rows]
    data = method.data(world.teacher, take(world.data, chosen), rng.fork("data"))
    last: dict[str, Any] = {}
    networks = method.networks(initial)
    states = folder.with_name(f"{folder.name}-{world.size.budget}")
    trained = bl.fit(
        networks,
        method.objective(world.teacher),
        method.feed(world.teacher, data, rng.fork("feed")),
        training_of(world, plan.steps),
        rng=rng.fork("training"),
        log=last.update,
        checkpoint_dir=states,
        resume=states if checkpoint.steps(states) else None,
    )
    passes = plan.for_data + plan.steps * plan.for_step
    found: dict[str, Any] = {
        "rows": len(data.x1),
        "steps": plan.steps,
        "passes": round(passes),
        "passes_for_data": round(plan.for_data),
        "passes_per_step_and_datum": round(plan.for_step / world.size.batch, 3),
        "parameters": sum(p.numel() for net in networks.values() for p in net.parameters()),
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "memory_bytes": int(last.get("peak_bytes", 0)),
    }
    found["evaluations"] = {str(k): at(method, world, trained, k, folder) for k in EVALUATIONS}
    shutil.rmtree(states, ignore_errors=True)
    return found


def at(method: Distillation, world: World, trained: Any, evaluations: int, folder: Path) -> dict[str, Any]:
    """The figures of a student with so many evaluations, or the reason why it has none."""
    try:
        flow, sampler = method.for_evaluations(evaluations).student(world.teacher, trained)
        require(
            sampler.evaluations == evaluations,
            f"its sampler has {sampler.evaluations} evaluations instead of {evaluations}; leave this number out",
        )
        made = world.sample(sampler, flow)
    except BeelineError as error:
        return {"refused": str(error)}
    shown(made, folder, evaluations)
    return world.figures(made)


def teacher_figures(world: World, folder: Path) -> dict[str, Any]:
    """The figures of the teacher with Euler and Heun steps, and those of its fine ends."""
    count = sum(p.numel() for p in world.teacher.field.parameters())
    found: dict[str, Any] = {"parameters": count, "fine": world.figures(world.ends)}
    for name, solver in (("Euler", EULER), ("Heun", HEUN)):
        each = bl.Sampler(1, solver=solver).evaluations or 1
        found[name] = {}
        for k in (k for k in EVALUATIONS if k % each == 0):
            made = world.sample(bl.Sampler(k // each, solver=solver), world.teacher)
            shown(made, folder, k)
            found[name][str(k)] = world.figures(made)
    return found


def shown(made: Tensor, folder: Path, evaluations: int) -> None:
    """Store the first samples for the picture, beside the folder of checkpoints."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    np.save(folder.parent / f"{folder.name}-{evaluations}.npy", made[:SHOWN].numpy())
