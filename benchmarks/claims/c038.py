"""The ring: 4,000 exact pairs, and a student of a third of the width that is initialised at random. One Euler step,
rmse to the paired end point; annealed reflow mixes new noise into the sources, which fades over the first half of
the steps."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.distillation.pairs import AnnealedPairs
from benchmarks.claims.toys import RING, exact_end, finding, learn, network, noise, points, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "SlimFlow: annealing reflow"
CLAIM = "Annealing from fresh noise to stored pairs gives better small one-step models."
SEEDS, STEPS, LOT = 4, 500, 256


def measure(rng: bl.Rng) -> list[Finding]:
    start, test = noise(rng.fork("pairs"), 4000), noise(rng)
    pairs, wanted = bl.Batch(exact_end(RING, start), start), exact_end(RING, test)
    small: Any = lambda: network(rng, width=24)  # noqa: E731
    paired = bl.objectives.FlowMatching(coupling=bl.couplings.Paired())
    cold = learn(small(), paired, pairs, rng.fork("net"), steps=STEPS, batch_size=LOT)
    feed = AnnealedPairs(pairs, rng.fork("annealed"), until=STEPS // 2)
    annealed = learn(small(), paired, feed, rng.fork("net"), steps=STEPS, batch_size=LOT)
    flow = learn(small(), bl.objectives.FlowMatching(), points(rng), rng.fork("net"), steps=STEPS // 2)
    two = learn(flow, paired, pairs, rng.fork("two"), steps=STEPS // 2)
    error = lambda net: rmse(sample(net, test, 1), wanted)  # noqa: E731
    raw = error(small())
    return [
        finding("annealed reflow (figure) against reflow from the start", error(cold), error(annealed), raw),
        finding("annealed reflow (figure) against a small flow and then reflow", error(two), error(annealed), raw),
    ]
