"""W2 distance to the ring of 16 Euler steps, after equal training."""

from __future__ import annotations

import beeline as bl
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "FasterDiT: direction term, density of the SNR"
CLAIM = "A direction term and times chosen by their signal-to-noise ratio make training faster."


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    errors = {"untrained": w2(sample(network(rng), x0, 16), real)}
    for name, times, distance in (
        ("plain", bl.times.Uniform(), bl.objectives.squared),
        ("direction", bl.times.Uniform(), bl.objectives.Direction(0.5)),
        ("SNR", bl.times.NormalSNR(bl.paths.Linear(), 0.0, 2.0), bl.objectives.squared),
    ):
        net = learn(
            network(rng), bl.objectives.FlowMatching(times=times, distance=distance), data, rng.fork("net"), 600
        )
        errors[name] = w2(sample(net, x0, 16), real)
    return [
        finding(f"{name} (figure) against plain", errors["plain"], errors[name], errors["untrained"])
        for name in ("direction", "SNR")
    ]
