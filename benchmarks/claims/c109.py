"""Nguyen et al. 2024: the Bellman grid has the smallest sum of one-jump errors; its end points are shown too."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.core.solver import EULER
from beeline.learn.fit_steps import jump_costs, shortest
from benchmarks.claims.ring import error, finding, problem

METHOD = "BOSS: Bellman-optimal step sizes (the schedule alone, without the straightening)"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    fit, test, found = problem(rng.fork("fit"), 128), problem(rng.fork("test")), []
    cost = jump_costs(fit, 60)
    total = lambda nodes: sum(float(cost[a, b]) for a, b in zip(nodes, nodes[1:], strict=False))  # noqa: E731
    for steps in (4, 6):
        best, even = shortest(cost, steps), list(range(0, 61, 60 // steps))
        grid = bl.schedules.Explicit(tuple((torch.tensor(best) / 60).tolist()))
        ends = [error(test, bl.Sampler(steps, s, EULER)) for s in (bl.schedules.Uniform(), grid)]
        found += [
            finding(
                f"sum of jump errors on the ring, {steps} Euler steps: Bellman against even", total(even), total(best)
            ),
            finding(f"error of the end points, {steps} Euler steps: Bellman against even", ends[0], ends[1]),
        ]
    return found
