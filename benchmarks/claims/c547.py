"""W2 distance to the ring of 20 Euler steps after equal training, and the same with noise added to every velocity."""

from __future__ import annotations

from typing import Any

import beeline as bl
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "PFGM++: Student kernels"
CLAIM = "Heavier-tailed kernels (smaller D) make the sampler more robust to errors; D to infinity is diffusion."


def measure(rng: bl.Rng) -> list[Finding]:
    data, (real, _), made = points(rng), even(RING, rng), {}
    shaken = lambda f: lambda x, t: f(x, t) + rng.fork("shake", float(t[0])).normal(x)  # noqa: E731
    for degrees in (float("inf"), 8.0):
        source: Any = bl.sources.Gaussian() if degrees == float("inf") else bl.sources.StudentT(degrees)
        objective = bl.objectives.FlowMatching(coupling=bl.couplings.Independent(source))
        net = learn(network(rng), objective, data, rng.fork("net"))
        x0 = source.sample(noise(rng), rng.fork("x0"))
        made[degrees] = [w2(sample(f, x0, 20), real) for f in (net, shaken(net), network(rng), shaken(network(rng)))]
    plain, heavy = made[float("inf")], made[8.0]
    return [
        finding("D = 8 (figure) against the Gaussian kernel", plain[0], heavy[0], heavy[2]),
        finding("the same with noise of unit variance added to every velocity", plain[1], heavy[1], heavy[3]),
    ]
