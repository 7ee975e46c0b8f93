"""Small images: the ring with overlapping classes, 10 steps of the midpoint rule; the error is the fraction of samples
that an exact classifier assigns to another class than the condition. Small plans: random walks of 8 steps of bounded
length in the plane, conditioned on their displacement to the right; a plan is executed step by step, each clipped to
the bound, with the displacement of the best walk of a thousand as the condition. Diffusion is noise prediction on
the variance-preserving path, DDIM steps of the same network after equal training. Planning in closed loop: a point mass
whose actions pass through an unknown matrix; flows of its states from the present one on, given the displacement, and
an inverse dynamics model, both from 10,000 random walks. A new plan in each of 8 steps; its first action is executed.
Diffusion is on the cosine path there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.objectives.heads import Head
from beeline.objectives.regression import Regression
from beeline.sampling.planner import Planner
from beeline.solvers.runge_kutta import MIDPOINT
from beeline.times.composed import Continued
from benchmarks.claims.c142 import LABEL, trained
from benchmarks.claims.c226 import faithful
from benchmarks.claims.toys import finding, learn, network, noise, sample
from benchmarks.claims.verdict import Finding

METHOD = "Guided flows"
CLAIM = "Guidance clearly improves conditional flows, and plans are ten times cheaper than those of diffusion."
SEEDS = 4
LONG, BOUND = 8, 1.0
UNKNOWN = -9.0  # stands for no condition


def walks(rng: bl.Rng, n: int) -> tuple[Tensor, Tensor]:
    """[n,16] steps of random walks, and [n,1] their displacement to the right in units of its standard deviation."""
    step = rng.normal(torch.empty(n, LONG, 2)) + rng.fork("drift").normal(torch.empty(n, 1, 2)) / 2
    step = cut(step)
    displacement = step[..., 0].sum(1, keepdim=True)
    return step.flatten(1), displacement / displacement.std()


def cut(step: Tensor) -> Tensor:
    """Steps [...,2], clipped to the length of the bound."""
    return step * (BOUND / step.norm(dim=-1, keepdim=True).clamp(min=BOUND))


MATRIX = torch.tensor([[0.8, -0.6], [0.6, 0.8]])  # of the actions
UNIT = 3.0  # of the states


def planning(rng: bl.Rng) -> list[Finding]:
    """Displacement of a point mass that is steered by plans."""
    steps, displacement = walks(rng.fork("walks"), 10_000)
    actions = steps.reshape(-1, LONG, 2)
    moved = torch.cat([torch.zeros(len(steps), 1, 2), (actions @ MATRIX.T).cumsum(1)], 1)
    far = moved[:, -1, :1] / moved[:, -1, 0].std()
    states = (moved + rng.fork("start").normal(moved[:, :1])) / UNIT
    data, pairs = bl.Batch(states, cond={"far": far}), torch.stack([states[:, :-1], states[:, 1:]], 2).flatten(0, 1)
    with rng.fork("inverse").ambient():
        inverse = Head(4, (2,), width=64)
    learn(inverse, Regression(), bl.Batch(actions.flatten(0, 1), cond={"input": pairs}), rng.fork("i"), steps=300)
    drop, vp, times = bl.objectives.Drop(0.15, UNKNOWN), bl.paths.Cosine(), Continued(count=LONG + 1)
    ends = {"conditions": {"far": {"size": 1}}, "shape": (LONG + 1, 2), "frames": LONG + 1}
    new = lambda path=None, kind=None: bl.Network(network(rng, None, 96, **ends).backbone, path, kind)  # noqa: E731
    flow = learn(new(), bl.objectives.FlowMatching(times=times, drop=drop), data, rng.fork("plan"), steps=350)
    objective = bl.objectives.FlowMatching(vp, times=times, drop=drop, prediction=bl.predictions.Noise())
    diffusion = learn(new(vp, bl.predictions.Noise()), objective, data, rng.fork("plan"), steps=350)

    def reached(field: Any, scale: float, sampler: bl.Sampler, path: Any = None, actor: Any = inverse) -> float:
        guided = replace(sampler, guidance=bl.CFG(scale, UNKNOWN))
        planner = Planner(bl.Flow(field, path or bl.paths.Linear()), actor, LONG + 1, guided, 0.5)
        state, wanted = torch.zeros(256, 2), {"far": far.quantile(0.999).expand(256, 1)}
        for k in range(LONG):
            state = state + cut(planner.act(state / UNIT, wanted, rng.fork("act", k))) @ MATRIX.T
        return float(state[:, 0].mean())

    five, raw = bl.Sampler(5, solver=MIDPOINT), new()
    guided = reached(flow, 1.5, five)
    control = reached(raw, 1.5, five)
    long = reached(diffusion, 1.5, bl.Sampler(100, solver=bl.solvers.EULER), vp)
    plans, mean = "displacement in closed loop", float(moved[:, -1, 0].mean())
    return [
        finding(f"{plans}: scale 1.5 (figure) against no guidance", reached(flow, 1.0, five), guided, control,
                better="higher"),
        finding(f"{plans}: flow (figure) against the mean of the walks", mean, guided, control, better="higher"),
        finding(f"{plans}: flow, 10 evaluations (figure) against diffusion, 100, 5% worse", 0.95 * long, guided,
                control, better="higher"),
    ]  # fmt: skip


def measure(rng: bl.Rng) -> list[Finding]:
    return [*open_loop(rng), *planning(rng.fork("planning"))]


def open_loop(rng: bl.Rng) -> list[Finding]:
    plain, x0 = trained(rng, 400)[1], noise(rng)
    label = torch.arange(len(x0)) % 8

    def wrong(net: bl.Network, scale: float) -> float:
        guidance = bl.CFG(scale, {"label": 8})
        return 1 - faithful(sample(net, x0, 10, {"label": label}, solver=MIDPOINT, guidance=guidance), label)

    steps, displacement = walks(rng.fork("walks"), 10_000)
    data, given = bl.Batch(steps, cond={"far": displacement}), {"far": {"size": 1}}
    drop, vp = bl.objectives.Drop(0.15, UNKNOWN), bl.paths.VariancePreserving()
    new = lambda: network(rng, 2 * LONG, conditions=given)  # noqa: E731
    flow = learn(new(), bl.objectives.FlowMatching(drop=drop), data, rng.fork("plan"), steps=400)
    objective = bl.objectives.FlowMatching(vp, drop=drop, prediction=bl.predictions.Noise())
    diffusion = learn(
        bl.Network(new().backbone, vp, bl.predictions.Noise()), objective, data, rng.fork("plan"), steps=400
    )
    start = noise(rng.fork("start"), 512, 2 * LONG)
    wanted = {"far": displacement.quantile(0.999).expand(512, 1)}

    def reached(net: bl.Network, scale: float, n: int, path: Any, solver: Any) -> float:
        guidance = bl.CFG(scale, UNKNOWN)
        made = sample(net, start, n, wanted, path=path, solver=solver, guidance=guidance)
        return float(cut(made.reshape(-1, LONG, 2))[..., 0].sum(1).mean())

    ten = [reached(net, scale, 5, bl.paths.Linear(), MIDPOINT) for net, scale in ((flow, 1.0), (flow, 1.5))]
    raw = reached(new(), 1.5, 5, bl.paths.Linear(), MIDPOINT)
    hundred, same = (reached(diffusion, 1.5, n, vp, bl.solvers.DPMSolver(1, vp)) for n in (100, 10))
    return [
        finding("share of wrong classes: scale 1.5 (figure) against no guidance", wrong(plain, 1.0), wrong(plain, 1.5),
                wrong(network(rng, conditions=LABEL), 1.5)),
        finding("displacement of plans, 5 midpoint steps: scale 1.5 (figure) against no guidance", *ten, raw,
                better="higher"),
        finding("displacement of plans: flow, 10 evaluations (figure) against diffusion, 100", hundred, ten[1], raw,
                better="higher"),
        finding("displacement of plans, 10 evaluations: flow (figure) against diffusion", same, ten[1], raw,
                better="higher"),
    ]  # fmt: skip
