"""Zhang et al. 2025: the law of the velocity, not its mean, lets paths cross; fewer evaluations on 1-D data.

With independent pairs the law of the velocity is as hard to draw as the data; with pairs of batch transport (claim
029) the method wins.
"""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.data.laws import GaussianMixture
from beeline.learn.targets import RandomVelocity
from benchmarks.claims.toys import draw, finding, learn, network, noise

METHOD = "Hierarchical rectified flow"
TWO = GaussianMixture([[-1.0], [1.0]], 0.1)


def w1(made: torch.Tensor, real: torch.Tensor) -> float:
    """The Wasserstein-1 distance on the line."""
    return float((made.flatten().sort().values - real.flatten().sort().values).abs().mean())


def hierarchical(rng: bl.Rng, coupling: Any, steps: int = 1500) -> Any:
    """An inner field trained with a coupling of the data."""
    net = network(rng, 1, conditions={"state": {"size": 1}, "time": {"size": 1}})
    outer = bl.objectives.FlowMatching(coupling=coupling)
    data = bl.Batch(TWO.sample(20_000, rng.fork("data")).float())
    return learn(net, bl.objectives.Hierarchical(outer=outer), data, rng, steps=steps)


def walked(field: Any, rng: bl.Rng, outer: int, inner: int) -> float:
    """W1 of samples with ``outer`` times ``inner`` evaluations."""
    x0, real = noise(rng, 5000, 1), TWO.sample(5000, rng.fork("real")).float()
    return w1(draw(RandomVelocity(field, rng.fork("inner"), inner), x0, outer), real)


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data = bl.Batch(TWO.sample(20_000, rng.fork("data")).float())
    plain = learn(network(rng, 1), bl.objectives.FlowMatching(), data, rng.fork("rf"), steps=1500)
    real = TWO.sample(5000, rng.fork("real")).float()
    field = hierarchical(rng.fork("hrf"), bl.couplings.Independent())
    rows = []
    for outer, inner in ((1, 2), (1, 10), (2, 5)):
        before = w1(draw(plain, noise(rng, 5000, 1), outer * inner), real)
        after = walked(field, rng, outer, inner)
        rows.append(finding(f"W1 on two 1-D modes at {outer * inner} evaluations: {outer} x {inner} hierarchical "
                            "(figure) against Euler", before, after))  # fmt: skip
    return rows
