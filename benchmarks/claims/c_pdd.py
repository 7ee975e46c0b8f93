"""Ends of new noises on the ring with its exact field as teacher: a small network, 800 steps, from the same start.
Jumps of the flow maps are between two sorted times, as in the papers: with jumps of all lengths, the default of their
distillations, their errors were larger here, and the semigroup map diverged with one seed of three."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import beeline as bl
from beeline.distillation.decoding import ParallelDecoding
from beeline.distillation.maps.presets import AlignYourFlowLagrangian, SplitMeanFlow
from beeline.distillation.students import OneStep
from beeline.fields.flow import Flow
from beeline.objectives.maps.spans import Ordered
from benchmarks.claims.toys import RING, exact_end, finding, learn, network, noise, rmse
from benchmarks.claims.verdict import Finding

METHOD = "Parallel decoding distillation"
CLAIM = (
    "One regression on the steps of the teacher gives a student for one to several evaluations that is closer to the "
    "teacher than a flow map of the same network, at the same number of steps."
)
STEPS = 800
SLOW = "a start and five students of 800 steps, as every comparison needs a student of its own"


def measure(rng: bl.Rng) -> list[Finding]:
    teacher, data, test = Flow(RING.field()), bl.Batch(RING.sample(10_000, rng.fork("data")).float()), noise(rng)
    start = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("start"), steps=1500)
    wanted = exact_end(RING, test)

    def errors(method: Any, counts: tuple[int, ...]) -> dict[int, float]:
        with rng.fork("new").ambient():  # initial weights of heads and of the second time
            nets = method.networks(Flow(start))
        learn(nets["student"], method.objective(teacher), method.data(teacher, data, rng.fork("pairs")), rng, STEPS)
        flow, sampler = method.student(teacher, nets)
        return {n: rmse(bl.Sampler(n, solver=sampler.solver)(flow, test), wanted) for n in counts}

    euler = {n: rmse(bl.Sampler(n, solver=bl.solvers.EULER)(teacher, test), wanted) for n in (1, 2, 4)}
    decoded = errors(ParallelDecoding(most=4), (1, 2, 4))
    alone = errors(ParallelDecoding(), (1,))
    spans = Ordered(diagonal=0.5)
    lagrangian, semigroup = (
        replace(method, matching=replace(method.matching, spans=spans))
        for method in (AlignYourFlowLagrangian(), SplitMeanFlow())
    )
    rivals = {
        "a Lagrangian flow map": errors(lagrangian, (1, 2, 4)),
        "a semigroup flow map": errors(semigroup, (1, 2, 4)),
    }
    pairs = errors(OneStep(bl.Sampler(32), count=10_000), (1,))
    found = [
        finding(f"distance to the teacher's ends, {n} evaluations: parallel decoding (figure) against {name}",
                other[n], decoded[n], euler[n], "Euler steps of the teacher")
        for name, other in rivals.items() for n in (1, 2, 4)
    ]  # fmt: skip
    return [
        *found,
        finding("one evaluation: trained for it alone (figure) against regression on 10,000 stored pairs", pairs[1],
                alone[1], euler[1], "Euler steps of the teacher"),
        finding("one evaluation: trained for it alone (figure) against for 1, 2 and 4", decoded[1], alone[1], euler[1],
                "Euler steps of the teacher"),
    ]  # fmt: skip
