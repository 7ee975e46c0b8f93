"""The cost of a training step of every method, in units of a plain flow-matching step."""

from __future__ import annotations

import statistics
import time
import traceback
from argparse import Namespace
from typing import Any

import torch

import beeline as bl
from beeline.networks.dit import DiT
from beeline.training.loop import Loop
from benchmarks.fewstep_parts import store
from benchmarks.fewstep_parts.engine import loop_of, student_loop
from benchmarks.fewstep_parts.methods import Row, rows
from benchmarks.fewstep_parts.passes import Passes

SHAPE, BATCH, STEPS, ROUNDS = (1, 28, 28), 8, 5, 5  # an untrained network: its weights change no time


def teacher() -> bl.Flow:
    with bl.Rng(0).fork("costs").ambient():
        net = DiT(SHAPE, patch=4, width=64, depth=4, conditions={"label": {"classes": 10}}, scale=30.0)
    return bl.Flow(bl.Network(net), null={"label": 10})


def data() -> bl.Batch:
    return bl.Batch(bl.Rng(1).normal(torch.empty(BATCH, *SHAPE)), cond={"label": torch.arange(BATCH) % 10})


def run(options: Namespace) -> None:
    """Measure the methods that are missing, or those that are named."""
    out = options.output or store.FILE
    settings = {"batch": BATCH, "steps": STEPS, "rounds": ROUNDS}
    for row in [Row(text) for text in options.method] if options.method else rows():
        text = row.name
        if row.narrow:
            continue
        if store.current("costs", text, 0, settings, out) and not options.again:
            continue
        try:
            found = cost(row)
        except Exception as error:  # continue with the other methods
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        store.add("costs", text, 0, {"settings": settings, **found}, out)
        print(f"costs: {text}: {found}", flush=True)


def cost(row: Row) -> dict[str, Any]:
    """Seconds of a step over those of a plain step (medians of alternating rounds), and passes for one datum."""
    method, flow, batch, rng = row.build(), teacher(), data(), bl.Rng(2)
    training = bl.Training(steps=2 * (1 + ROUNDS) * STEPS, batch_size=BATCH)
    own = student_loop(method, flow, flow, method.data(flow, batch, rng), training, rng)
    objective = bl.objectives.FlowMatching(drop=bl.Drop(0.1))
    plain = loop_of({"network": teacher().field}, objective, batch, training, rng)
    passes = {name: counted(loop, flow, batch) for name, loop in (("own", own), ("plain", plain))}
    times: dict[str, list[float]] = {"own": [], "plain": []}
    for _ in range(ROUNDS):
        for name, loop in (("own", own), ("plain", plain)):
            times[name].append(seconds(loop))
    ratios = [a / b for a, b in zip(times["own"], times["plain"], strict=True)]
    return {
        "objective": type(method.objective(flow)).__name__,
        "ratio": round(statistics.median(ratios), 2),
        "passes": round(passes["own"], 2),
        "plain_passes": round(passes["plain"], 2),
        "ratio_of_passes": round(passes["own"] / passes["plain"], 2),
    }


def counted(loop: Loop, flow: bl.Flow, batch: bl.Batch) -> float:
    """Passes for one datum of a step, over the first steps, which also warm up."""
    with Passes(flow, batch.x1[:1], {"label": torch.zeros(1, dtype=torch.long)}) as found:
        for _ in range(2 * STEPS):
            loop.step()
    return found.count / (2 * STEPS * BATCH)


def seconds(loop: Loop) -> float:
    begin = time.process_time()
    for _ in range(STEPS):
        loop.step()
    return time.process_time() - begin
