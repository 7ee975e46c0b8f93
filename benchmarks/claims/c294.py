"""The ring and an adaptive solver (tolerance 1e-3). An untrained network is easy to solve too, so the evaluations count
as 1,000 where the samples are farther from the data (W2) than 1.1 times those of plain training."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Local solver error as a regulariser"
CLAIM = "Adaptive solving takes 0.56 to 0.73 times the evaluations, at equal quality."


def cost(field: Any, x0: torch.Tensor) -> float:
    """Evaluations of an adaptive run."""
    calls = 0

    def counted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return field(x, t)

    with torch.no_grad():
        bl.integrate(counted, x0, torch.tensor([0.0, 1.0]), bl.solvers.Adaptive(1e-3, 1e-3))
    return float(calls)


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    objectives = bl.objectives.FlowMatching(), bl.objectives.SmoothSteps(strength=0.1, step=0.1)
    nets = [learn(network(rng), objective, data, rng.fork("net")) for objective in objectives]
    nets.append(network(rng))
    far = [w2(sample(f, x0, 30, solver=bl.solvers.HEUN), real) for f in nets]
    calls = [cost(f, x0) if w < 1.1 * far[0] else 1000.0 for f, w in zip(nets, far, strict=True)]
    return [
        finding("evaluations: regularised (figure) against plain", *calls),
        finding("evaluations: regularised (figure) against 0.73 times those of plain", 0.73 * calls[0], *calls[1:]),
    ]
