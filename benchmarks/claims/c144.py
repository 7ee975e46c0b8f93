"""Small images: the ring with overlapping classes, 10 steps of the midpoint rule; the error is the fraction of samples
that an exact classifier assigns to another class than the condition. Small plans: random walks of 8 steps of bounded
length in the plane, conditioned on their displacement to the right; a plan is executed step by step, each clipped to
the bound, with the displacement of the best walk of a thousand as the condition. Diffusion is noise prediction on
the variance-preserving path, DDIM steps of the same network after equal training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.solvers.runge_kutta import MIDPOINT
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


def measure(rng: bl.Rng) -> list[Finding]:
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
