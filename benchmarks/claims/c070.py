"""W1 distance to two modes on the line; each step of the outer flow samples its velocity from the inner flow."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.objectives.hierarchical import RandomVelocity
from benchmarks.claims.toys import even, finding, learn, network, noise, sample
from benchmarks.claims.verdict import Finding

METHOD = "Hierarchical rectified flow"
CLAIM = "Paths may cross, so that they are straighter and need fewer evaluations on data in one and two dimensions."
TWO = GaussianMixture([[-1.0], [1.0]], 0.1)
SIZE = 4096


def w1(made: torch.Tensor, real: torch.Tensor) -> float:
    """The Wasserstein-1 distance on the line."""
    return float((made.flatten().sort().values - real.flatten().sort().values).abs().mean())


def inner(rng: bl.Rng) -> Any:
    """The inner field before training."""
    return network(rng, 1, conditions={"state": {"size": 1}, "time": {"size": 1}})


def hierarchical(rng: bl.Rng, coupling: Any, steps: int = 900) -> Any:
    """An inner field trained with a coupling of the data."""
    outer = bl.objectives.FlowMatching(coupling=coupling)
    data = bl.Batch(TWO.sample(20_000, rng.fork("data")).float())
    return learn(inner(rng), bl.objectives.Hierarchical(outer=outer), data, rng, steps=steps)


def sampled_error(field: Any, rng: bl.Rng, outer: int, inner: int) -> float:
    """W1 of samples with ``outer`` times ``inner`` evaluations."""
    made = sample(RandomVelocity(field, rng.fork("inner"), inner), noise(rng, SIZE, 1), outer)
    return w1(made, even(TWO, rng, SIZE)[0])


def measure(rng: bl.Rng) -> list[Finding]:
    data = bl.Batch(TWO.sample(20_000, rng.fork("data")).float())
    plain = learn(network(rng, 1), bl.objectives.FlowMatching(), data, rng.fork("rf"), steps=900)
    real = even(TWO, rng, SIZE)[0]
    field, first, rows = hierarchical(rng.fork("hrf"), bl.couplings.Independent()), inner(rng), []
    for outer, inside in ((1, 2), (1, 10), (2, 5)):
        before = w1(sample(plain, noise(rng, SIZE, 1), outer * inside), real)
        rows.append(finding(f"{outer * inside} evaluations: {outer} x {inside} hierarchical (figure) against Euler",
                            before, *(sampled_error(f, rng, outer, inside) for f in (field, first))))  # fmt: skip
    return rows
