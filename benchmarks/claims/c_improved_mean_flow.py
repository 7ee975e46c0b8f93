"""The ring from data alone: error to the exact ends and W2 distance of one step, after equally many steps of training
with equal times and weights, so that the direction of the derivative alone differs."""

from __future__ import annotations

import beeline as bl
from beeline.objectives.maps.presets import ImprovedMeanFlow, MeanFlow
from benchmarks.claims.maps import fresh, jumped
from benchmarks.claims.toys import RING, even, exact_end, finding, learn, noise, points, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "Improved MeanFlow"
CLAIM = "A derivative along the map's own velocity removes variance of the pairs and gives better one-step samples."


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    wanted = exact_end(RING, x0)
    nets = [learn(fresh(rng), o, data, rng.fork("net"), steps=1200) for o in (MeanFlow(), ImprovedMeanFlow())]
    ends = [jumped(net, x0) for net in (*nets, fresh(rng))]
    return [
        finding("one step, error to the exact ends: improved (figure) against MeanFlow",
                *(rmse(x, wanted) for x in ends)),
        finding("one step, W2: improved (figure) against MeanFlow", *(w2(x, real) for x in ends)),
    ]  # fmt: skip
