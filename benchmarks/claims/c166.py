"""Lin and Yang 2024: features of a frozen copy instead of the squared error give better samples without guidance.

Features of a small network see less than the squared error once there are steps enough.
"""

from __future__ import annotations

import copy
from typing import Any

import beeline as bl
from benchmarks.claims.toys import CLASSES, draw, finding, learn, network, noise, points, w2

METHOD = "Self-perceptual objective"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, x0 = bl.Batch(points(rng, CLASSES).x1), noise(rng)
    real = CLASSES.sample(1000, rng.fork("real")).float()
    plain = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"), steps=1000)
    more = learn(copy.deepcopy(plain), bl.objectives.FlowMatching(), data, rng.fork("more"), steps=1000, peak=1e-3)
    objective = bl.objectives.SelfPerceptual(bl.objectives.FlowMatching(), copy.deepcopy(plain), "backbone.block.1")
    net = learn(copy.deepcopy(plain), objective, data, rng.fork("more"), steps=1000, peak=1e-3)
    rows = []
    for steps in (4, 16):
        before, after = (w2(draw(f, x0, steps), real) for f in (more, net))
        rows.append(finding(f"W2 to the ring, {steps} Euler steps: self-perceptual (figure) against as many more plain "
                            "steps", before, after))  # fmt: skip
    return rows
