"""The ring from data alone: W2 distance of one and two steps after equally many steps of training, against MeanFlow,
and with groups of four particles against one particle, which is a consistency loss."""

from __future__ import annotations

import beeline as bl
from beeline.objectives.maps.moments import InductiveMoments
from beeline.objectives.maps.presets import MeanFlow
from benchmarks.claims.maps import LONG, fresh, jumped
from benchmarks.claims.toys import RING, even, finding, learn, noise, points, w2
from benchmarks.claims.verdict import Finding

METHOD = "Inductive moment matching"
CLAIM = "Matching the distributions of two jumps trains one-step samplers from data, better than single particles."


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    objectives = (MeanFlow(), InductiveMoments(group=1), InductiveMoments())
    nets = [learn(fresh(rng), o, data, rng.fork("net"), steps=LONG) for o in objectives]
    mean, single, moments, raw = ({n: w2(jumped(net, x0, n), real) for n in (1, 2)} for net in (*nets, fresh(rng)))
    return [
        *(finding(f"{n} steps, W2: moments (figure) against MeanFlow", mean[n], moments[n], raw[n]) for n in (1, 2)),
        finding("one step, W2: groups of four particles (figure) against one", single[1], moments[1], raw[1]),
    ]
