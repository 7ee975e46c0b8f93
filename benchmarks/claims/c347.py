"""LoRA that starts at components of the weights chosen by the inputs on data, against LoRA of equal rank: W2 distance
to a new style after training from the largest, and to the old data after training from the smallest."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LoRA, layers_of
from beeline.networks.adapters.inside import with_backbone
from beeline.networks.adapters.members.low_rank import Principal
from beeline.networks.adapters.starts import oriented
from benchmarks.claims.deltas import base, distance, moved, tune
from benchmarks.claims.toys import network, points
from benchmarks.claims.verdict import Finding

METHOD = "CorDA: starts of LoRA by data"
CLAIM = "Better than LoRA with less forgetting."
RANK = 4


def second_moments(net: torch.nn.Module, rng: bl.Rng) -> dict[str, torch.Tensor]:
    """E[x x^T] of the inputs of layers on states of the old data."""
    found: dict[str, torch.Tensor] = {}
    layers = layers_of(net)
    hooks = [
        layer.register_forward_hook(
            lambda _, given, __, n=name: found.__setitem__(n, given[0].mT @ given[0] / len(given[0]))
        )
        for name, layer in layers.items()
    ]
    x1 = points(rng).x1[:2000]
    t = rng.fork("t").uniform(len(x1), x1)
    with torch.no_grad():
        net(bl.paths.Linear().point(rng.fork("x0").normal(x1), x1, t).x, t)
    for hook in hooks:
        hook.remove()
    return found


def measure(rng: bl.Rng) -> list[Finding]:
    seed, made = rng.seed, {}
    lora = moved(LoRA(RANK), seed)
    for largest in (True, False):
        start = with_backbone(
            base(seed),
            lambda net, largest=largest: oriented(Adapted(net, Principal(RANK, largest)), second_moments(net, rng)),
        )
        field = tune(start, seed)
        made[largest] = distance(field, seed), distance(field, seed, old=True)
    raw = distance(network(rng.fork("none")), seed, old=True)
    return [
        Finding("W2 to the new style: largest components (figure) against LoRA", lora[0], made[True][0],
                distance(base(seed), seed), "not adapted"),
        Finding("W2 to the old data after it: smallest components (figure) against LoRA", lora[1], made[False][1], raw,
                "untrained network"),
    ]  # fmt: skip
