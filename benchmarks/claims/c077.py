"""Losses on the first modes of the ring and on the others after training on the first and then on the others: the
last delta, its mean with a slow average of it, and a delta in the null space of the inputs of the first modes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.adapted import Adapted, merged
from beeline.networks.adapters.delta import LoRA
from beeline.networks.adapters.members.chosen import NullSpace, input_moments, keeping
from beeline.training.optim.ema import EMA
from benchmarks.claims.deltas import base, changed, modes
from benchmarks.claims.toys import learn, points
from benchmarks.claims.verdict import Finding

METHOD = "LAE: online and offline adapters, and their ensemble"
CLAIM = "+1.3% and +3.6% accuracy after the last task."
STEPS, RATE = 200, 5e-3


def measure(rng: bl.Rng) -> list[Finding]:
    x = points(rng).x1
    first, second = (bl.Batch(x[(modes(x) < 4) == early]) for early in (True, False))
    objective = bl.objectives.FlowMatching()

    def train(net: Any, data: bl.Batch, name: str, **more: Any) -> Any:
        return learn(net, objective, data, rng.fork(name), steps=STEPS, peak=RATE, **more)

    one = train(changed(LoRA(4), rng.seed), first, "first")
    two = train(copy.deepcopy(one), second, "second")
    slow = train(copy.deepcopy(one), second, "second", ema=EMA(140))
    rested = copy.deepcopy(merged(one))
    with rng.fork("null space").ambient():
        rested.backbone = Adapted(rested.backbone, NullSpace(4, kept=32))
    example = objective.examples(bl.Batch(first.x1[:2000]), rng.fork("inputs"))
    moments = input_moments(rested, lambda net: net(example.x, example.t))
    rested = train(keeping(rested, moments), second, "second")

    def loss(field: Callable[..., Tensor], data: bl.Batch) -> float:
        with torch.no_grad():
            return float(objective(field, bl.Batch(data.x1[:4000]), rng.fork("tests")).value)

    def both(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        found: Tensor = (two(x, t) + slow(x, t)) / 2
        return found

    plain, raw = loss(two, first), loss(base(rng.seed), second)
    return [
        Finding(
            "loss on the first task after the second: ensemble against the last delta",
            plain,
            loss(both, first),
            loss(train(copy.deepcopy(two), second, "more"), first),
            "the last delta trained on",
        ),
        Finding(
            "loss on the second task: ensemble against the last delta, 10% worse",
            1.1 * loss(two, second),
            loss(both, second),
            raw,
            "not adapted",
        ),
        Finding(
            "loss on the first task: delta in the null space of its inputs against the last delta",
            plain,
            loss(rested, first),
            loss(train(copy.deepcopy(two), second, "more"), first),
            "the last delta trained on",
        ),
        Finding(
            "loss on the second task: null space against the last delta, 10% worse",
            1.1 * loss(two, second),
            loss(rested, second),
            raw,
            "not adapted",
        ),
    ]
