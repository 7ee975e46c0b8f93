"""A rotated and stretched Gaussian, E|x1 - x0|^2 = 4.4 where 1.25 is optimal; two rounds of 500 steps each. Marginals
are the W2 distance of the end points to the true end points."""

from __future__ import annotations

import math
from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import UNTRAINED, finding, learn, network, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "c-rectified flow: potential gradient"
CLAIM = "The chosen convex transport cost decreases in every round, while the marginals stay fixed."
SEEDS = 3
CHANCE = "the same ends, paired by chance"


def measure(rng: bl.Rng) -> list[Finding]:
    x0 = noise(rng.fork("x0"), 4096)
    turn = torch.tensor([[math.cos(1.2), -math.sin(1.2)], [math.sin(1.2), math.cos(1.2)]])
    start = bl.Batch(x0 @ turn.T * torch.tensor([2.0, 0.5]), x0)
    paired = bl.couplings.Paired()
    cost = lambda batch: float((batch.x1 - x0).square().sum(1).mean())  # noqa: E731

    def rounds(name: str, make: Any, objective: Any) -> list[bl.Batch]:
        made = [start]
        for k in range(2):
            net = learn(make(rng.fork(k)), objective, made[-1], rng.fork(name, k), steps=500)
            made.append(bl.Batch(sample(net, x0, 10, solver=bl.solvers.HEUN), x0))
        return made

    free = rounds("free", network, bl.objectives.FlowMatching(coupling=paired))
    potential: Any = lambda r: bl.networks.Potential(network(r))  # noqa: E731
    bound = rounds("potential", potential, bl.objectives.FlowMatching(coupling=paired,
                   distance=bl.objectives.Bregman()))  # fmt: skip
    chance = bl.Batch(bound[1].x1[rng.fork("chance").permutation(len(x0))], x0)
    ends = [w2(batch.x1[:512], start.x1[:512]) for batch in (free[1], bound[1])]
    still = sample(potential(rng), x0[:512], 10, solver=bl.solvers.HEUN)
    return [
        finding("E|Z1 - Z0|^2 after one round: gradient field (figure) against a free field", cost(free[1]),
                cost(bound[1]), cost(chance), CHANCE),
        finding("E|Z1 - Z0|^2 of the gradient field: second round (figure) against first", cost(bound[1]),
                cost(bound[2]), cost(chance), CHANCE),
        finding("marginals after one round: gradient field (figure) against a free field", *ends,
                w2(still, start.x1[:512]), UNTRAINED),
    ]  # fmt: skip
