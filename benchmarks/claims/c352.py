"""rmse of the velocity on the ring after few and after ten times as many steps of Adam: one cycle up to ten times the
usual learning rate, against the usual constant learning rate."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.training.optim.learning_rate import Constant, OneCycle
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "Super-convergence: one cycle"
CLAIM = "One cycle with a large maximum rate trains an order of magnitude faster."
SEEDS, USUAL, LARGE = 4, 1e-3, 1e-2


def measure(rng: bl.Rng) -> list[Finding]:
    data, objective = points(rng), bl.objectives.FlowMatching()

    def error(steps: int, rate: Any) -> float:
        return velocity_error(
            learn(network(rng), objective, data, rng.fork("net"), steps=steps, lr=rate), RING, rng
        )  # fmt: skip

    cycle, small = error(100, OneCycle(LARGE)), error(100, OneCycle(USUAL))
    same, long = error(100, Constant(USUAL)), error(1000, Constant(USUAL))
    raw = velocity_error(network(rng), RING, rng)
    return [
        finding("100 steps: one cycle up to 0.01 (figure) against a constant 0.001", same, cycle, raw),
        finding("100 steps: one cycle up to 0.01 (figure) against one up to 0.001", small, cycle, raw),
        finding("one cycle in 100 steps (figure) against a constant 0.001 in 1,000", long, cycle, raw),
    ]
