"""End points on the ring with the exact velocity on new noises: the Bellman grid (60 fine steps, 128 noises)."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.fit_steps import Bellman
from beeline.solvers.runge_kutta import EULER
from benchmarks.claims.ring import error, problem
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "BOSS: Bellman-optimal step sizes"
CLAIM = "Steps chosen by dynamic programming beat even steps at the same small number of evaluations."
SEEDS = 6


def measure(rng: bl.Rng) -> list[Finding]:
    fit, test, found = problem(rng.fork("fit"), 128), problem(rng.fork("test")), []
    for steps in (4, 6, 8):
        schedule, solver = Bellman(fine=60)(fit, steps, rng.fork("search"))
        even, best = (error(test, bl.Sampler(steps, s, EULER)) for s in (bl.schedules.Uniform(), schedule))
        inner = rng.fork("chance", steps).uniform(steps - 1, torch.empty(0, dtype=torch.float64)).sort().values
        chance = bl.schedules.Explicit((0.0, *inner.tolist(), 1.0))
        found.append(finding(f"error of the end points, {steps} Euler steps: Bellman grid (figure) against even steps",
                             even, best, error(test, bl.Sampler(steps, chance, EULER)), "times by chance"))  # fmt: skip
    return found
