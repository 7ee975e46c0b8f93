"""W2 distance to a new style of a new flow, guided by the blocks of an old one that has a LoRA of that style."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.adapters.delta import LoRA
from beeline.networks.mlp import MLP
from beeline.networks.side.bridge import Bridged
from benchmarks.claims.deltas import base, changed, distance, tune
from benchmarks.claims.toys import learn, points
from benchmarks.claims.verdict import Finding

METHOD = "X-Adapter: adapters of an old flow guide a new one"
CLAIM = "Old plugins work on the new base without retraining."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, old = rng.seed, base(rng.seed)
    with rng.fork("new").ambient():
        fresh = bl.Network(MLP(2, width=96, depth=4))
    new: Any = learn(fresh, bl.objectives.FlowMatching(), points(rng), rng.fork("new"), steps=400)
    styled = tune(changed(LoRA(4), seed), seed)
    with rng.fork("bridge").ambient():
        bridge = bl.Network(Bridged(new.backbone, old.backbone, [96] * 4, [64] * 3))
    weak = learn(bridge, bl.objectives.FlowMatching(), points(rng), rng.fork("maps"), steps=200)
    carried = bl.Network(weak.backbone.with_old(styled.backbone))
    raw, own = distance(new, seed), distance(styled, seed)
    with torch.no_grad():
        kept = distance(weak, seed, old=True)
    return [
        Finding(
            "W2 to the new style: new flow with the bridge against half of that without",
            0.5 * raw,
            distance(carried, seed),
            raw,
            "without the adapter",
        ),
        Finding(
            "W2 to the new style: new flow with the bridge against that without",
            raw,
            distance(carried, seed),
            raw,
            "without the adapter",
        ),
        Finding(
            "W2 to the new style: new flow with the bridge against the old one with its adapter, twice as bad",
            2 * own,
            distance(carried, seed),
            raw,
            "without the adapter",
        ),
        Finding(
            "W2 to the old data with the bridge, without an adapter, 25% worse than the new flow",
            1.25 * distance(new, seed, old=True),
            kept,
            raw,
            "the new style",
        ),
    ]
