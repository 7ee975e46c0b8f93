"""A network of eight blocks on the ring, whose samples of 20 Euler steps are the reference. Feedback after seven
blocks: 106 calls of blocks with it, against 112 of 14 Euler steps. The control reuses features as they are. The
error of velocities is that after one step of 1/20, on states between noise and data."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.inner_loop import InnerLoop, InnerLoopFeedback
from beeline.networks.mlp import MLP
from benchmarks.claims.toys import finding, learn, noise, points, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "Inner loop feedback"
CLAIM = "A trained block that predicts features of the next step saves calls of blocks at equal samples."
SEEDS = 3
REUSE = "features as they are"


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0 = points(rng), noise(rng)
    with rng.fork("network").ambient():
        net = bl.Network(MLP(2, width=64, depth=8))
    net = learn(net, bl.objectives.FlowMatching(), data, rng.fork("net"))
    method, flow, reused = InnerLoopFeedback(after=7), bl.Flow(net), InnerLoop(net, 7)
    made = learn(method.networks(flow)["student"], method.objective(flow), data, rng.fork("loop"))
    wanted = sample(net, x0, 20)
    ends = [sample(net, x0, 14), *(sample(f, x0, 20) for f in (made, reused))]
    with torch.no_grad():
        before, after = (
            float(method.objective(flow)(f, data, rng.fork("error")).terms["error"]) for f in (reused, made)
        )
    return [
        finding("distance to 20 Euler steps: feedback (figure) against 14 Euler steps",
                *(rmse(x, wanted) for x in ends), REUSE),
        finding("squared error of velocities: feedback (figure) against reused features", before, after, before, REUSE),
    ]  # fmt: skip
