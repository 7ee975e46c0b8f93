"""Park et al. 2024: with an acceleration one step reaches the paired end better than a constant velocity."""

from __future__ import annotations

from typing import Any

import beeline as bl
from benchmarks.claims.toys import RING, draw, exact_end, finding, learn, network, noise, rmse

METHOD = "Constant acceleration flow"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    x0 = noise(rng.fork("pairs"), 6000)
    pairs, test = bl.Batch(exact_end(RING, x0), x0), noise(rng)
    wanted = exact_end(RING, test)
    paired = bl.couplings.Paired()
    straight = learn(network(rng), bl.objectives.FlowMatching(coupling=paired), pairs, rng.fork("rf"), steps=2000)
    heads = network(rng.fork("v")), network(rng.fork("a"), conditions={"velocity": {"size": 2}})
    curved = bl.networks.Accelerating(*heads)
    curved = learn(curved, bl.objectives.ConstantAccelerationMatching(1.5), pairs, rng.fork("caf"), steps=1000)
    before = rmse(draw(straight, test, 1), wanted)
    after = rmse(draw(curved, test, 1, solver=bl.solvers.Jump()), wanted)
    return [finding("rmse of one step to the paired end, at equal network passes in training: acceleration (figure) "
                    "against straight reflow", before, after)]  # fmt: skip
