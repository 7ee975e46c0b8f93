"""Lee, Lin and Fanti 2024: U-shaped times and a pseudo-Huber loss make one reflow round enough."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.multistep import KeepNoise
from benchmarks.claims.toys import RING, draw, exact_end, finding, learn, network, noise, rmse

METHOD = "Improved training of rectified flows"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    x0 = noise(rng.fork("pairs"), 6000)
    steps: dict[Any, float] = {}
    pairs, test, paired = bl.Batch(exact_end(RING, x0), x0), noise(rng), bl.couplings.Paired()
    wanted, made = exact_end(RING, test), {}
    for name, times, distance in (
        ("uniform", bl.times.Uniform(), bl.objectives.squared),
        ("U", bl.times.UShaped(4.0), bl.objectives.squared),
        ("U, Huber", bl.times.UShaped(4.0), bl.objectives.Huber(0.05)),
    ):
        objective = bl.objectives.FlowMatching(coupling=paired, times=times, distance=distance)
        net = learn(network(rng), objective, pairs, rng.fork("net"), steps=1500)
        made[name] = rmse(draw(net, test, 1), wanted)
        if name == "U":
            steps = {kind: rmse(draw(net, test, 4, solver=kind), wanted) for kind in (KeepNoise(), bl.solvers.EULER)}
    text = "rmse of one step to the paired end: {} (figure) against {}"
    return [
        finding(text.format("U-shaped times", "uniform times"), made["uniform"], made["U"]),
        finding("4 steps of the reflowed net: from the first noise (figure) against Euler", *reversed(steps.values())),
        finding(text.format("pseudo-Huber", "squared, both with U-shaped times"), made["U"], made["U, Huber"]),
    ]
