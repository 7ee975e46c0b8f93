"""Yue et al. 2025: reflow of rotations as unit quaternions allows far fewer steps."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.core.space import Even, Geodesic, GeodesicEuler, Rotations, Tangent
from benchmarks.claims.toys import draw, finding, learn, network, noise

METHOD = "ReQFlow: reflow on rotations"
SPACE = Rotations()


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    source, step = Even(SPACE), GeodesicEuler(SPACE)
    modes = SPACE.sample(torch.empty(4, 4), rng.fork("modes"))
    pick = rng.fork("pick").integers(4, 8000)
    x1 = SPACE.exp(modes[pick], SPACE.tangent(modes[pick], 0.1 * rng.fork("blur").normal(modes[pick])))
    path = Geodesic(SPACE)
    field = Tangent(network(rng, 4), SPACE)
    objective = bl.objectives.FlowMatching(path, bl.couplings.Independent(source))
    first = learn(field, objective, bl.Batch(x1), rng.fork("first"), steps=1500)
    x0 = source.sample(torch.empty(6000, 4), rng.fork("pairs"))
    pairs = bl.Batch(SPACE.project(draw(first, x0, 50, solver=step)), x0)
    objective = bl.objectives.FlowMatching(path, bl.couplings.Paired())
    second = learn(Tangent(network(rng, 4), SPACE), objective, pairs, rng.fork("second"), steps=1500)
    test = SPACE.project(noise(rng, 1000, 4))
    errors = []
    for net in (first, second):
        fine, coarse = (draw(net, test, n, solver=step) for n in (100, 5))
        errors.append(float(SPACE.distance(fine, coarse).mean()))
    return [finding("mean angle (radians) between 5 and 100 steps of the same model: after reflow (figure) against "
                    "before", errors[0], errors[1])]  # fmt: skip
