"""The ring: a diffusion teacher (noise prediction, variance-preserving path) and 4,000 pairs that it generates in 50
steps. Reflow continues with the path and prediction of the teacher, errors in data space (pseudo-Huber per
coordinate) and DDIM sampling. The baseline, InstaFlow, is reflow on the straight path with squared velocity errors
and Euler sampling; its network is first trained on that path for as many steps. The lower cost is half as many
reflow steps. Rmse to the paired end point."""

from __future__ import annotations

import copy
from typing import Any

import beeline as bl
from benchmarks.claims.toys import finding, learn, network, noise, points, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "Rectified Diffusion"
CLAIM = (
    "Matched pairs of noise and sample matter, straightness does not: reflow of a diffusion model with its own path "
    "and prediction beats InstaFlow at lower cost."
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
    pairs, wanted = bl.Batch(sample(teacher, start, 50, **fine), start), sample(teacher, test, 50, **fine)
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
        euler = rmse(sample(straight, test, n), wanted)
        a, b, c, raw = (rmse(sample(f, test, n, **ddim), wanted) for f in (unpaired, rectified, half, first))
        rows += [
            finding(f"{n} steps: own path with pairs (figure) against own path without", a, b, raw),
            finding(f"{n} steps: own path, half the training (figure) against the straight path", euler, c, raw),
        ]
    return rows
