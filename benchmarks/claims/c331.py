"""rmse of the velocity on the ring at two training lengths: a constant learning rate with a cooldown over the last
fifth, against a cosine over that length, and against the cosine of a run of 600 steps that is stopped there.
Cooldowns at 200, 400 and 600 steps of one constant run take 720 steps in total, three cosines 1,200, so at equal
compute each cosine has 0.6 of its length."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.training.optim.learning_rate import Cooldown, WarmupConstantCooldown, WarmupCosine
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "Constant rate with cooldown"
CLAIM = "A short cooldown matches the cosine at any length with far less total compute."
SEEDS = 4
PEAK = 3e-3


def measure(rng: bl.Rng) -> list[Finding]:
    data, objective, rows = points(rng), bl.objectives.FlowMatching(), []
    raw = velocity_error(network(rng), RING, rng)

    def error(steps: int, rate: Any) -> float:
        net = learn(network(rng), objective, data, rng.fork("net"), steps=steps, lr=rate)
        return velocity_error(net, RING, rng)

    cosine = WarmupCosine(PEAK, 50)
    for n in (200, 400):
        figure, same = error(n, WarmupConstantCooldown(PEAK, 50, 0.2)), error(n, cosine)
        cut, less = error(n, Cooldown(cosine, start=n, planned=600)), error(int(0.6 * n), cosine)
        rows += [
            finding(f"{n} steps: cooldown (figure) against the cosine over as many", same, figure, raw),
            finding(f"{n} steps: cooldown (figure) against the stopped cosine of 600", cut, figure, raw),
            finding(f"as much total work: cooldown at {n} (figure) against a cosine over {int(0.6 * n)}", less, figure,
                    raw),
        ]  # fmt: skip
    return rows
