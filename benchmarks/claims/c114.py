"""Liu 2022: with a gradient field, repeated rectification solves optimal transport; without, rotations survive."""

from __future__ import annotations

import math
from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import draw, finding, learn, network

METHOD = "c-rectified flow: potential gradient"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    x0 = rng.fork("x0").normal(torch.empty(6000, 2))
    turn = torch.tensor([[math.cos(1.2), -math.sin(1.2)], [math.sin(1.2), math.cos(1.2)]])
    first = bl.Batch(x0 @ turn.T * torch.tensor([2.0, 0.5]), x0)
    costs = {}
    for name in ("plain", "potential"):
        pairs = first
        for k in range(2):
            net: Any = network(rng.fork(k))
            distance: Any = bl.objectives.squared
            if name == "potential":
                net, distance = bl.networks.Potential(net), bl.objectives.Bregman()
            objective = bl.objectives.FlowMatching(coupling=bl.couplings.Paired(), distance=distance)
            net = learn(net, objective, pairs, rng.fork(name, k), steps=700)
            pairs = bl.Batch(draw(net, x0, 12, solver=bl.solvers.HEUN), x0)
        costs[name] = float((pairs.x1 - x0).square().sum(1).mean())
    spread = torch.cov(pairs.x1.T)
    off = float((spread - torch.diag(torch.tensor([4.0, 0.25]))).abs().max())
    return [
        finding("E|Z1-Z0|^2 after two rectifications of a rotation: gradient field (figure) against a free field; "
                "optimum 1.25", costs["plain"], costs["potential"]),
        finding("largest error of the end covariance diag(4, 0.25) (figure) against a tenth of the variance", 0.4, off),
    ]  # fmt: skip
