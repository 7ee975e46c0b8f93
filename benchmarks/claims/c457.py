"""Linearly separable representations without an encoder make training faster.

Nothing to gain at this size: the network is told the label, so that its hidden features are separable without help (a
linear probe on the plain model is right every time).
"""

from __future__ import annotations

from typing import Any

from torch import nn

import beeline as bl
from benchmarks.claims.c142 import DROP, LABEL
from benchmarks.claims.toys import CLASSES, finding, learn, network, points, velocity_error

METHOD = "Linear separability of hidden features"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, rows = points(rng, CLASSES), []
    base = bl.objectives.FlowMatching(drop=DROP)
    for steps in (300, 1000):
        plain = learn(network(rng, conditions=LABEL), base, data, rng.fork("net"), steps=steps)
        with rng.fork("head").ambient():
            head = nn.Linear(64, 8)
        both = bl.networks.Helped(network(rng, conditions=LABEL), head)
        both = learn(both, bl.objectives.Separable(base, "field.backbone.block.1"), data, rng.fork("net"), steps=steps)
        before, after = (velocity_error(f, CLASSES, rng) for f in (plain, both))
        rows.append(
            finding(
                f"rmse of the velocity after {steps} steps: with a linear probe (figure) against plain", before, after
            )
        )
    return rows
