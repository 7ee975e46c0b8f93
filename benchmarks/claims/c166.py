"""The ring with overlapping modes, 500 further steps from the same model; W2 distance to the ring."""

from __future__ import annotations

import copy

import beeline as bl
from benchmarks.claims.toys import CLASSES, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Self-perceptual objective"
CLAIM = "Features of a frozen copy instead of the squared error give better samples without guidance."


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0 = bl.Batch(points(rng, CLASSES).x1), noise(rng)
    real = even(CLASSES, rng)[0]
    plain = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"), steps=700)
    more = learn(copy.deepcopy(plain), bl.objectives.FlowMatching(), data, rng.fork("more"), steps=500, peak=1e-3)
    objective = bl.objectives.SelfPerceptual(bl.objectives.FlowMatching(), copy.deepcopy(plain), "backbone.block.1")
    net = learn(copy.deepcopy(plain), objective, data, rng.fork("more"), steps=500, peak=1e-3)
    rows = []
    for steps in (4, 16):
        before, after = (w2(sample(f, x0, steps), real) for f in (more, net))
        rows.append(finding(f"{steps} Euler steps: self-perceptual (figure) against as many more plain steps",
                            before, after, w2(sample(network(rng), x0, steps), real)))  # fmt: skip
    return rows
