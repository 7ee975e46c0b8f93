"""Pal et al. 2023: the local error of the solver as a penalty makes adaptive solving cheaper.

Nothing to save at this size: the plain network already costs the adaptive solver what the exact field costs it (56
evaluations at 1e-3), and the penalty raises the error of the velocity.
"""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import RING, draw, finding, learn, network, noise, points, w2

METHOD = "Local solver error as a regulariser"


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


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, x0, real = points(rng), noise(rng), RING.sample(1000, rng.fork("real")).float()
    plain = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"), steps=1200)
    net = learn(network(rng), bl.objectives.SmoothSteps(strength=1.0, step=0.1), data, rng.fork("net"), steps=1200)
    return [
        finding("evaluations of an adaptive solver (1e-3): regularised (figure) against plain",
                cost(plain, x0), cost(net, x0)),
        finding("W2 to the ring, 50 Heun steps, which the penalty may cost",
                *(w2(draw(f, x0, 50, solver=bl.solvers.HEUN), real) for f in (plain, net))),
    ]  # fmt: skip
