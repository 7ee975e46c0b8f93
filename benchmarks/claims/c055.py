"""Zhou et al. 2023: states rebuilt from the model's own estimate train for the states that sampling meets.

The rebuilt states trade the exact minimum for agreement with sampling: better in 4 steps, worse in 16.
"""

from __future__ import annotations

from typing import Any

import beeline as bl
from benchmarks.claims.toys import RING, draw, finding, learn, network, noise, points, w2

METHOD = "DREAM: self-rectified states"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, x0, real = points(rng), noise(rng), RING.sample(1000, rng.fork("real")).float()
    plain = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"), steps=1500)
    net = learn(network(rng), bl.objectives.SelfRectified(power=1.0), data, rng.fork("net"), steps=1500)
    rows = []
    for steps in (4, 16):
        before, after = (w2(draw(f, x0, steps), real) for f in (plain, net))
        rows.append(
            finding(f"W2 to the ring, {steps} Euler steps: rebuilt states (figure) against plain", before, after)
        )
    return rows
