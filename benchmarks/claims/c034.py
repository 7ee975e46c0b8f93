"""One step to the end points of 6,000 exact pairs of the ring, at equal network passes in training."""

from __future__ import annotations

from typing import Any

import beeline as bl
from benchmarks.claims.toys import RING, exact_end, finding, learn, network, noise, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "Constant acceleration flow"
CLAIM = "Better one-step quality and a better preserved coupling than a flow of constant velocity."


def measure(rng: bl.Rng) -> list[Finding]:
    x0, test = noise(rng.fork("pairs"), 6000), noise(rng)
    pairs, wanted = bl.Batch(exact_end(RING, x0), x0), exact_end(RING, test)
    objective = bl.objectives.FlowMatching(coupling=bl.couplings.Paired())
    straight = learn(network(rng), objective, pairs, rng.fork("rf"), steps=1200)

    def heads() -> Any:
        velocity = network(rng.fork("v"))
        return bl.networks.SecondOrder(velocity, network(rng.fork("a"), conditions={"velocity": {"size": 2}}))

    curved = learn(heads(), bl.objectives.ConstantAccelerationMatching(1.5), pairs, rng.fork("caf"), steps=600)
    jump = lambda net: rmse(sample(net, test, 1, solver=bl.solvers.FlowMapStep()), wanted)  # noqa: E731
    return [finding("rmse to the paired end: with acceleration (figure) against constant velocity",
                    rmse(sample(straight, test, 1), wanted), jump(curved), jump(heads()))]  # fmt: skip
