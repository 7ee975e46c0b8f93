"""The ring with overlapping classes: one network trained for guidance of scale 3, W2 distance to the data of samples
with guidance of several scales in 20 steps."""

from __future__ import annotations

import torch

import beeline as bl
from benchmarks.claims.c142 import DROP, LABEL, guided, trained
from benchmarks.claims.toys import CLASSES, even, finding, learn, network, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "Guidance anticipated in training"
CLAIM = "Guided samples are better, and robust to the scale of guidance."


def measure(rng: bl.Rng) -> list[Finding]:
    data, plain = trained(rng)
    objective = bl.objectives.Anticipating(bl.objectives.FlowMatching(drop=DROP), scale=3.0)
    net = learn(network(rng, conditions=LABEL), objective, data, rng.fork("plain"), steps=900)
    first = network(rng, conditions=LABEL)
    x0, (real, label) = noise(rng), even(CLASSES, rng)
    rows = []
    for scale in (1.5, 3.0, 4.5):
        made = [guided(f, x0, {"label": label}, 20, scale)[torch.argsort(label)] for f in (plain, net, first)]
        rows.append(finding(f"guidance {scale:g}: anticipated (figure) against plain training",
                            *(w2(x, real) for x in made)))  # fmt: skip
    return rows
