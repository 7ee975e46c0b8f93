"""Esser et al. 2024: more middle times train a better model in as many steps."""

from __future__ import annotations

from typing import Any

import beeline as bl
from benchmarks.claims.toys import RING, draw, finding, learn, network, noise, points, w2

METHOD = "SD3 time samplers"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, x0, real = points(rng), noise(rng), RING.sample(1000, rng.fork("real")).float()
    error = {}
    for times in (bl.times.Uniform(), bl.times.LogitNormal(), bl.times.Mode(1.29), bl.times.CosMap()):
        net = learn(network(rng), bl.objectives.FlowMatching(times=times), data, rng.fork("net"))
        error[type(times).__name__] = w2(draw(net, x0, 16), real)
    first = error.pop("Uniform")
    text = "W2 to the ring, 16 Euler steps, after 1000 steps: {} times (figure) against uniform"
    return [finding(text.format(name), first, value) for name, value in error.items()]
