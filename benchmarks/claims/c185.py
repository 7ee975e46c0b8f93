"""End points on the ring with the exact velocity on new noises: an evolutionary search over time steps.

The layers of the network are not searched."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.fit_steps import Evolved
from beeline.solvers.runge_kutta import EULER
from benchmarks.claims.ring import error, problem
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "AutoDiffusion: search over time steps"
CLAIM = "Searched time steps are much better than the usual ones at four steps."


def measure(rng: bl.Rng) -> list[Finding]:
    fit, test = problem(rng.fork("fit"), 256), problem(rng.fork("test"))
    schedule, solver = Evolved(EULER)(fit, 4, rng.fork("search"))
    searched = error(test, bl.Sampler(4, schedule, solver))
    named = (bl.schedules.Uniform(), bl.schedules.Shifted(0.5), bl.schedules.Shifted(2.0))
    base = min(error(test, bl.Sampler(4, s, EULER)) for s in named)
    inner = rng.fork("chance").uniform(3, torch.empty(0, dtype=torch.float64)).sort().values
    chance = error(test, bl.Sampler(4, bl.schedules.Explicit((0.0, *inner.tolist(), 1.0)), EULER))
    return [finding("4 Euler steps: searched times (figure) against the best of even times and shifts by 0.5 and 2",
                    base, searched, chance, "times by chance")]  # fmt: skip
