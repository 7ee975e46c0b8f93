"""The ring with one class per mode; pairs of a guided teacher (scale 1.5) in 25 Euler steps; one step of the student,
rmse to the guided end point of the same noise. The last stage adds a distance in fixed random features to the
squared error, in place of LPIPS. Progressive distillation, the baseline of the paper, is not measured; the baseline
is distillation without reflow at equal total training."""

from __future__ import annotations

import copy
from typing import Any

import torch

import beeline as bl
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.objectives.losses.distances import Perceptual
from benchmarks.claims.c142 import DROP, LABEL, guided
from benchmarks.claims.toys import finding, learn, network, noise, points, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "InstaFlow: one step after reflow"
CLAIM = "Distillation after reflow works in one step."
SEEDS = 4
LAW = GaussianMixture.ring(labelled=True)


def measure(rng: bl.Rng) -> list[Finding]:
    matching, paired, at = bl.objectives.FlowMatching, bl.couplings.Paired(), bl.times.At(0.0)
    first = network(rng, conditions=LABEL)
    teacher = learn(copy.deepcopy(first), matching(drop=DROP), points(rng, LAW), rng.fork("net"), steps=500)
    label = lambda n: {"label": torch.arange(n) % 8}  # noqa: E731
    end = lambda x0: guided(teacher, x0, label(len(x0)), 25, 1.5)  # noqa: E731
    start, test = noise(rng.fork("pairs"), 4000), noise(rng)
    pairs, wanted = bl.Batch(end(start), start, label(len(start))), end(test)

    def more(net: Any, steps: int, **settings: Any) -> Any:
        objective = matching(coupling=paired, **settings)
        return learn(copy.deepcopy(net), objective, pairs, rng.fork("two"), steps=steps, peak=1e-3)

    reflow = more(teacher, 250)
    distilled, longer, direct = more(reflow, 100, times=at), more(reflow, 100), more(teacher, 350, times=at)
    features = Perceptual(plain=1.0)
    plain, felt = more(distilled, 100, times=at), more(distilled, 100, times=at, distance=features)
    nets = (teacher, reflow, longer, distilled, direct, plain, felt, first)
    before, once, on, two, other, three, seen, raw = (rmse(sample(f, test, 1, label(len(test))), wanted) for f in nets)
    return [
        finding("after reflow (figure) against the teacher", before, once, raw),
        finding("distilled after reflow (figure) against as much more reflow", on, two, raw),
        finding("distilled after reflow (figure) against distilled without, as long in all", other, two, raw),
        finding("a last stage with features (figure) against one without", three, seen, raw),
    ]
