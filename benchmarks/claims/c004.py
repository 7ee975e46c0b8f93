"""One round of reflow on 6,000 exact pairs of the ring; the error is that of one step to the paired end point."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.objectives.losses.distances import Combined, Perceptual
from beeline.solvers.multistep import KeepNoise
from benchmarks.claims.toys import RING, exact_end, finding, learn, network, noise, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "Improved training of rectified flows"
CLAIM = "U-shaped times and a pseudo-Huber loss make one round of reflow enough for one-step sampling."
SEEDS = 4
FEATURES = Perceptual(plain=0.0)  # of fixed random networks, in the place of LPIPS
BOTH = Combined((bl.objectives.Huber(0.05), FEATURES), (bl.objectives.PowerWeight(1.0), bl.objectives.one))


def measure(rng: bl.Rng) -> list[Finding]:
    x0, test = noise(rng.fork("pairs"), 6000), noise(rng)
    pairs, wanted, paired = bl.Batch(exact_end(RING, x0), x0), exact_end(RING, test), bl.couplings.Paired()
    nets: dict[str, Any] = {"untrained": network(rng)}
    for name, times, distance in (
        ("uniform", bl.times.Uniform(), bl.objectives.squared),
        ("U", bl.times.UShaped(4.0), bl.objectives.squared),
        ("U, Huber", bl.times.UShaped(4.0), bl.objectives.Huber(0.05)),
        ("U, both", bl.times.UShaped(4.0), BOTH),
    ):
        objective = bl.objectives.FlowMatching(coupling=paired, times=times, distance=distance)
        nets[name] = learn(network(rng), objective, pairs, rng.fork("net"), steps=600)
    one = {name: rmse(sample(net, test, 1), wanted) for name, net in nets.items()}
    four = lambda name, solver: rmse(sample(nets[name], test, 4, solver=solver), wanted)  # noqa: E731
    return [
        finding("one step: U-shaped times (figure) against uniform times", one["uniform"], one["U"], one["untrained"]),
        finding("one step: pseudo-Huber and U-shaped times (figure) against squared and uniform", one["uniform"],
                one["U, Huber"], one["untrained"]),
        finding("one step: Huber and features of the datum together (figure) against squared and uniform",
                one["uniform"], one["U, both"], one["untrained"]),
        finding("4 steps with U-shaped times: from the first noise (figure) against Euler",
                four("U", bl.solvers.EULER), four("U", KeepNoise()), four("untrained", KeepNoise())),
    ]  # fmt: skip
