"""End points on the ring on new noises: an evolutionary search over time steps with the exact velocity, and one over
time steps and skipped blocks of a trained network of six blocks, at the cost of four evaluations of all blocks. For the
network the error is the distance to its own end points under a fine solver."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.fit_blocks import BlockSearch, search_blocks
from beeline.distillation.fit_solver import Problem
from beeline.distillation.fit_steps import Evolved
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.sampling.guidance.guide import Plain
from beeline.solvers.runge_kutta import EULER, RK4
from benchmarks.claims.ring import error, problem, rmse
from benchmarks.claims.toys import finding, learn, noise, points
from benchmarks.claims.verdict import Finding

METHOD = "AutoDiffusion: search over time steps and blocks"
CLAIM = "Searched time steps and blocks are much better than the usual ones at the cost of four steps."
SCHEDULES = (bl.schedules.Uniform(), bl.schedules.Shifted(0.5), bl.schedules.Shifted(2.0))


def measure(rng: bl.Rng) -> list[Finding]:
    return [*steps(rng), *blocks(rng.fork("blocks"))]


def steps(rng: bl.Rng) -> list[Finding]:
    fit, test = problem(rng.fork("fit"), 256), problem(rng.fork("test"))
    schedule, solver = Evolved(EULER)(fit, 4, rng.fork("search"))
    searched = error(test, bl.Sampler(4, schedule, solver))
    base = min(error(test, bl.Sampler(4, s, EULER)) for s in SCHEDULES)
    inner = rng.fork("chance").uniform(3, torch.empty(0, dtype=torch.float64)).sort().values
    chance = error(test, bl.Sampler(4, bl.schedules.Explicit((0.0, *inner.tolist(), 1.0)), EULER))
    return [finding("4 Euler steps: searched times (figure) against the best of even times and shifts by 0.5 and 2",
                    base, searched, chance, "times by chance")]  # fmt: skip


def blocks(rng: bl.Rng) -> list[Finding]:
    with rng.fork("network").ambient():
        net = bl.Network(MLP(2, width=64, depth=6))
    flow = bl.Flow(learn(net, FlowMatching(), points(rng), rng, steps=600))
    fine, x0 = bl.Sampler(50, solver=RK4), noise(rng)
    exact = fine(flow, x0)

    def off(sampler: bl.Sampler) -> float:
        return rmse(sampler(flow, x0), exact)

    like, method = torch.empty(256, 2), BlockSearch()
    found = search_blocks(flow, 4, like=like, rng=rng.fork("search"), method=method, truth=fine)
    start = rng.fork("steps").normal(like)
    schedule, _ = Evolved(EULER)(Problem(flow, Plain(), start, fine(flow, start)), 4, rng.fork("evolved"))
    one = method.mutated(method.mutated(method(lambda g: 0.0, 4, 6, rng.fork("any"))[0], 4, 6, rng), 4, 6, rng)
    chance = off(method.sampler(one, tuple(f"block.{i}" for i in range(6)), Plain()))
    base = min(off(bl.Sampler(4, s, EULER)) for s in SCHEDULES)
    what = "24 blocks: searched times and blocks (figure) against"
    return [
        finding(f"{what} the best of even times and shifts by 0.5 and 2, all blocks", base, off(found), chance,
                "a plan by chance"),
        finding(f"{what} searched times, all blocks", off(bl.Sampler(4, schedule, EULER)), off(found), chance,
                "a plan by chance"),
    ]  # fmt: skip
