"""Rotations around four centres: W2 distance (geodesic) of few-step samples to the data, after one round of reflow and
after equally long further training. A zero field fails, since its samples are the source."""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment

import beeline as bl
from beeline.spaces.manifold import Geodesic, GeodesicEuler, Rotations, Tangent, UniformOnSpace
from benchmarks.claims.toys import finding, learn, network, sample
from benchmarks.claims.verdict import Finding

METHOD = "ReQFlow: reflow on rotations"
CLAIM = "Reflow of rotations as unit quaternions allows far fewer steps."
SPACE = Rotations()


def distance(made: torch.Tensor, real: torch.Tensor) -> float:
    """The Wasserstein-2 distance in radians between two samples of one size."""
    n = len(real)
    apart = SPACE.distance(made.repeat_interleave(n, 0), real.repeat(n, 1)).reshape(n, n).square()
    rows, columns = linear_sum_assignment(apart.numpy())
    return float(apart[rows, columns].mean().sqrt())


def measure(rng: bl.Rng) -> list[Finding]:
    source, step, path = UniformOnSpace(SPACE), GeodesicEuler(SPACE), Geodesic(SPACE)
    modes = SPACE.sample(torch.empty(4, 4), rng.fork("modes"))

    def data(n: int, key: str) -> torch.Tensor:
        at = modes[torch.arange(n) % 4]
        return SPACE.exp(at, SPACE.tangent(at, 0.1 * rng.fork(key).normal(at)))

    field: Any = lambda: Tangent(network(rng, 4), SPACE)  # noqa: E731
    plain = bl.objectives.FlowMatching(path, bl.couplings.Independent(source))
    first = learn(field(), plain, bl.Batch(data(8000, "data")), rng.fork("first"), steps=600)
    longer = learn(field(), plain, bl.Batch(data(8000, "data")), rng.fork("first"), steps=1200)
    x0 = source.sample(torch.empty(4000, 4), rng.fork("pairs"))
    pairs = bl.Batch(SPACE.project(sample(first, x0, 40, solver=step)), x0)
    objective = bl.objectives.FlowMatching(path, bl.couplings.Paired())
    second = learn(field(), objective, pairs, rng.fork("second"), steps=600)
    test, real = source.sample(torch.empty(512, 4), rng.fork("test")), data(512, "real")
    return [
        finding(f"{n} steps: after reflow (figure) against plain training for as long",
                *(distance(SPACE.project(sample(f, test, n, solver=step)), real) for f in (longer, second, field())))
        for n in (1, 2, 5)
    ]  # fmt: skip
