"""W2 distance to the ring of 16 Euler steps, after equal training with each distribution of times."""

from __future__ import annotations

import beeline as bl
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "SD3 time samplers"
CLAIM = "Times weighted towards the middle (logit-normal, mode, CosMap) train a better model than uniform ones."


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    error = {"untrained": w2(sample(network(rng), x0, 16), real)}
    for times in (bl.times.Uniform(), bl.times.LogitNormal(), bl.times.Mode(1.29), bl.times.CosMap()):
        net = learn(network(rng), bl.objectives.FlowMatching(times=times), data, rng.fork("net"), steps=600)
        error[type(times).__name__] = w2(sample(net, x0, 16), real)
    return [
        finding(f"{name} times (figure) against uniform", error["Uniform"], error[name], error["untrained"])
        for name in ("LogitNormal", "Mode", "CosMap")
    ]
