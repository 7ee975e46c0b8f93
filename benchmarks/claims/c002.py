"""The ring: a diffusion teacher (noise prediction, variance-preserving path), 4,000 pairs that it makes in 50 steps.
Reflow goes on with its own path and prediction, errors in the space of the datum (pseudo-Huber by coordinate), drawn
with DDIM. InstaFlow's way is reflow on the straight path with squared errors of the velocity, drawn with Euler; its
network has learned as long on that path before. Half as much reflow is the lower cost. Rmse to the paired end."""

from __future__ import annotations

import copy
from typing import Any

import beeline as bl
from benchmarks.claims.toys import draw, finding, learn, network, noise, points, rmse
from benchmarks.claims.verdict import Finding

METHOD = "Rectified Diffusion"
CLAIM = (
    "Matched pairs of noise and sample matter, straightness does not: reflow of a diffusion model as it is beats "
    "InstaFlow at lower cost."
)
SEEDS = 4


def measure(rng: bl.Rng) -> list[Finding]:
    vp, matching, paired = bl.paths.VariancePreserving(), bl.objectives.FlowMatching, bl.couplings.Paired()
    first = bl.Network(network(rng).backbone, vp, bl.predictions.Noise())
    teacher = learn(
        copy.deepcopy(first), matching(vp, prediction=bl.predictions.Noise()), points(rng), rng.fork("net"), steps=500
    )
    fine: dict[str, Any] = {"path": vp, "solver": bl.solvers.DPMSolver(2, vp)}
    start, test = noise(rng.fork("pairs"), 4000), noise(rng)
    pairs, wanted = bl.Batch(draw(teacher, start, 50, **fine), start), draw(teacher, test, 50, **fine)
    huber = bl.objectives.Huber(1e-3, each=True)
    own: Any = {"path": vp, "prediction": bl.predictions.Data(), "distance": huber}
    more: dict[str, Any] = {"peak": 1e-3}
    unpaired = learn(copy.deepcopy(teacher), matching(**own), points(rng), rng.fork("two"), steps=300, **more)
    rectified, half = (
        learn(copy.deepcopy(teacher), matching(coupling=paired, **own), pairs, rng.fork("two"), steps=n, **more)
        for n in (300, 150)
    )
    line = learn(network(rng), matching(), points(rng), rng.fork("net"), steps=500)
    straight = learn(line, matching(coupling=paired), pairs, rng.fork("two"), steps=300, **more)
    rows = []
    for n in (1, 2, 4):
        ddim: dict[str, Any] = {"path": vp, "solver": bl.solvers.DPMSolver(1, vp)}
        euler = rmse(draw(straight, test, n), wanted)
        a, b, c, raw = (rmse(draw(f, test, n, **ddim), wanted) for f in (unpaired, rectified, half, first))
        rows += [
            finding(f"{n} steps: own path with pairs (figure) against own path without", a, b, raw),
            finding(f"{n} steps: own path, half the training (figure) against the straight path", euler, c, raw),
        ]
    return rows
