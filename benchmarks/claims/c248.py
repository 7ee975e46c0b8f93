"""W2 distance to the new style after a short finetuning that starts at the average of two flows finetuned on halves of
the ring, against one that starts at the flow itself."""

from __future__ import annotations

import copy

import torch

import beeline as bl
from beeline.networks.adapters.merges import Average, merged_networks
from benchmarks.claims.deltas import base, distance, tune, tuned_on
from benchmarks.claims.verdict import Finding

METHOD = "Fusing finetuned models for better pretraining"
CLAIM = "The average of finetuned models is a better start than the pretrained one."
FEW = 40  # steps


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    halves = [tuned_on(seed, chosen) for chosen in ((0, 1, 2, 3), (4, 5, 6, 7))]
    with torch.no_grad():
        fused = merged_networks(net, halves, Average())
    starts = (net, fused, halves[0])
    plain, soup, one = (distance(tune(copy.deepcopy(f).requires_grad_(True), seed, steps=FEW), seed) for f in starts)
    return [
        Finding(f"W2 to the style after {FEW} steps: from the average (figure) against from the flow", plain, soup, one,
                "from one of the two"),
    ]  # fmt: skip
