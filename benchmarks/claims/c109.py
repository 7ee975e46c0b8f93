"""End points on the ring with the exact velocity on new noises: the Bellman grid (60 fine steps, 128 noises). Then a
teacher after 500 steps of training, and 250 steps that straighten four steps of its own Bellman grid, or four even
ones: the rmse of four Euler steps to the teacher's end points, and their W2 distance to the ring."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.finetune import PeRFlow
from beeline.distillation.fit_steps import Bellman
from beeline.distillation.presets import BellmanReflow
from beeline.solvers.runge_kutta import EULER
from beeline.times.samplers import At
from benchmarks.claims.ring import error, problem
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "BOSS: Bellman-optimal step sizes"
CLAIM = (
    "Steps chosen by dynamic programming beat even steps at the same small number of evaluations, and straightening "
    "them adds more."
)
SEEDS = 6


def measure(rng: bl.Rng) -> list[Finding]:
    fit, test, found = problem(rng.fork("fit"), 128), problem(rng.fork("test")), []
    for steps in (4, 6, 8):
        schedule, solver = Bellman(fine=60)(fit, steps, rng.fork("search"))
        level, best = (error(test, bl.Sampler(steps, s, EULER)) for s in (bl.schedules.Uniform(), schedule))
        inner = rng.fork("chance", steps).uniform(steps - 1, torch.empty(0, dtype=torch.float64)).sort().values
        chance = bl.schedules.Explicit((0.0, *inner.tolist(), 1.0))
        by_chance = error(test, bl.Sampler(steps, chance, EULER))
        found.append(finding(f"error of the end points, {steps} Euler steps: Bellman grid (figure) against even steps",
                             level, best, by_chance, "times by chance"))  # fmt: skip
    return found + straightened(rng)


def straightened(rng: bl.Rng) -> list[Finding]:
    """Four steps of a trained teacher, before and after they were straightened."""
    data, x0, real = points(rng), noise(rng), even(RING, rng)[0]
    net = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"), steps=500)
    teacher, end = bl.Flow(net), sample(net, x0, 50, solver=bl.solvers.HEUN)
    grid = BellmanReflow(4, inner=4).fitted(teacher, data, rng.fork("grid"))
    made = {}
    for name, method in (("grid", grid), ("even", PeRFlow(4, 4, times=At(0.0)))):
        copy = method.networks(teacher)["student"]
        tuned = learn(copy, method.objective(teacher), data, rng.fork("tuned"), steps=250, peak=1e-3)
        flow, sampler = method.student(teacher, {"student": tuned})
        made[name] = sampler(flow, x0)
    alone = sample(net, x0, 4, schedule=grid.schedule)
    raw = sample(network(rng), x0, 4)
    return [
        finding("rmse to the teacher, 4 Euler steps: its grid straightened (figure) against the grid alone",
                rmse(alone, end), rmse(made["grid"], end), rmse(raw, end)),
        finding("W2 to the ring, 4 Euler steps: its grid straightened (figure) against the grid alone",
                w2(alone, real), w2(made["grid"], real), w2(raw, real)),
        finding("W2 to the ring, 4 Euler steps straightened: the Bellman grid (figure) against even steps",
                w2(made["even"], real), w2(made["grid"], real), w2(raw, real)),
    ]  # fmt: skip
