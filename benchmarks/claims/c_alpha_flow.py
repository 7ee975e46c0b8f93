"""The ring from data alone: W2 distance and error to the exact ends of one step, after equally many steps of training;
alpha-Flow takes less time for each, because it has no derivative."""

from __future__ import annotations

import time

import beeline as bl
from beeline.objectives.maps.presets import AlphaFlow, MeanFlow
from benchmarks.claims.maps import LONG, fresh, jumped
from benchmarks.claims.toys import RING, even, exact_end, finding, learn, noise, points, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "alpha-Flow"
CLAIM = "An annealed step from flow matching on trajectories to MeanFlow trains better than MeanFlow from the start."


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    wanted, nets, seconds = exact_end(RING, x0), [], []
    for objective in (MeanFlow(), AlphaFlow()):
        start = time.process_time()
        nets.append(learn(fresh(rng), objective, data, rng.fork("net"), steps=LONG))
        seconds.append(time.process_time() - start)
    ends = [jumped(net, x0) for net in (*nets, fresh(rng))]
    return [
        finding("one step, W2: alpha-Flow (figure) against MeanFlow", *(w2(x, real) for x in ends)),
        finding("one step, error to the exact ends: alpha-Flow (figure) against MeanFlow",
                *(rmse(x, wanted) for x in ends)),
        finding("seconds of training: alpha-Flow (figure) against MeanFlow", *seconds, 10 * max(seconds), "ten times"),
    ]  # fmt: skip
