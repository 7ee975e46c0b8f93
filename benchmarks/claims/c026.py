"""Two numbers with a correlation of 0.8 stand for two modalities. One network has a time for each of them, trained
with independent times and a third of the parts given. Root mean square error of the second part given the first, 50
Euler steps, to the exact flow: against a network that was trained for this task alone, and against one with a common
time, whose given part follows a path of fixed noise. Equal networks and training."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.mlp import MLP
from beeline.sampling.guidance.frames import GivenFrames
from beeline.times.composed import Continued, Frames
from benchmarks.claims.toys import finding, learn, noise, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "OmniFlow: a time for each modality"
CLAIM = "One network with a time for each modality samples any of them given the others."
SEEDS = 3
SLOPE, SPREAD = 0.8, 0.6  # of one part given the other
STEPS = 50


def measure(rng: bl.Rng) -> list[Finding]:
    x1 = rng.fork("data").normal(torch.empty(10_000, 2, 1))
    x1[:, 1] = SLOPE * x1[:, 0] + SPREAD * x1[:, 1]
    data, x0 = bl.Batch(x1), noise(rng)[..., None]
    each = bl.times.Uniform()

    def network(frames: int) -> MLP:
        with rng.fork("network").ambient():
            return MLP(shape=(2, 1), width=64, depth=3, frames=frames)

    def trained(frames: int, times: Any) -> Any:
        return learn(network(frames), bl.objectives.FlowMatching(times=times), data, rng.fork("fit"), steps=400)

    own, task, common = trained(2, Frames(each, 2, 1 / 3)), trained(2, Continued(each, 2)), trained(0, each)

    def error(net: Any, given: int) -> float:
        made = sample(net, x0, STEPS, guidance=GivenFrames((given,)))
        return rmse(made[:, 1 - given], SLOPE * x0[:, given] + SPREAD * x0[:, 1 - given])

    def replaced(net: Any) -> float:
        start = rng.fork("given").normal(x0[:, 0])
        x = x0.clone()
        for i in range(STEPS):
            t = torch.full((len(x),), i / STEPS)
            x[:, 0] = (1 - i / STEPS) * start + i / STEPS * x0[:, 0]
            with torch.no_grad():
                x[:, 1] += net(x, t)[:, 1] / STEPS
        return rmse(x[:, 1], SLOPE * x0[:, 0] + SPREAD * x0[:, 1])

    first, raw = error(own, 0), error(network(2).eval(), 0)
    return [
        finding("all tasks in one network (figure) against a network of this task", error(task, 0), first, raw),
        finding("a time for each part (figure) against a common time", replaced(common), first, raw),
    ]
