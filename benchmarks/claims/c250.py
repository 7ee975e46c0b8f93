"""Patel et al. 2023: training that anticipates the guidance of sampling closes the gap between the two."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.c142 import DROP, LABEL, guided, trained
from benchmarks.claims.toys import CLASSES, finding, learn, network, noise, w2

METHOD = "Guidance anticipated in training"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, plain = trained(rng)
    rows = []
    x0, label = noise(rng, 1600), torch.arange(1600) % 8
    real = CLASSES.batch(1600, rng.fork("real"), dtype=torch.float32).x1
    for scale in (2.0, 4.0):
        objective = bl.objectives.Anticipating(bl.objectives.FlowMatching(drop=DROP), scale=scale)
        net = learn(network(rng, conditions=LABEL), objective, data, rng.fork("aware"), steps=1500)
        before, after = (w2(guided(f, x0, {"label": label}, 20, scale), real) for f in (plain, net))
        rows.append(finding(f"W2 to the data of samples with guidance {scale:g}: anticipated (figure) against plain "
                            "training", before, after))  # fmt: skip
    return rows
