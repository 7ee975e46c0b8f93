"""A flow of the ring with classes, each of which moves along two directions by amounts of its own. An inventory of four
changes with shares of every class, in four blocks of the outputs, is trained on six classes. A new class with 20
points: shares alone, one adapter that starts at the mean of the inventory, and a new LoRA, 60 steps each; W2 distances
to the class. Matrices: the error of mixed changes and of mixed factors for the mean of two changes of rank 4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.delta import LoRA
from beeline.networks.adapters.members.mixture import Mixture, Task, fixed, regated
from benchmarks.claims.mixed import base, data, distance, tune, with_delta
from benchmarks.claims.verdict import Finding

METHOD = "Multi-head routing of adapters"
CLAIM = "Tuning shares alone is competitive, and the mean of the inventory is a good start of one adapter for few data."
KNOWN, NEW, FEW, STEPS, HEADS = range(6), 7, 20, 60, 4


def moving(x: Tensor, label: Tensor) -> Tensor:
    """Points of every class moved and made smaller."""
    a = torch.tensor([0.1, 0.9, 0.5, 0.0, 1.0, 0.3, 0.7, 0.6])[label, None]
    return (1 - 0.5 * a) * x + (1 - a) * torch.tensor([0.8, 0.0]) + a * torch.tensor([0.0, 0.8])


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    known, few = data(seed, moving, KNOWN), data(seed, moving, (NEW,), FEW)
    inventory = tune(with_delta(Mixture((LoRA(2),) * 4, Task(6, HEADS)), seed), known, seed, 400)
    routed = regated(inventory, Task(1, HEADS))
    found = {
        "none": base(seed).field,
        "mean": fixed(inventory),
        "shares": tune(routed, few, seed, STEPS, 5e-2),
        "mu": tune(fixed(inventory), few, seed, STEPS),
        "lora": tune(with_delta(LoRA(8), seed), few, seed, STEPS),
    }
    w2 = {name: distance(net, seed, moving, (NEW,)) for name, net in found.items()}
    trained = sum(p.numel() for p in routed.parameters() if p.requires_grad)
    factors, mixed, nothing = on_matrices(rng)
    return [
        Finding(f"W2 to a new class of {FEW} points: {trained} shares (figure) against a new LoRA of equal rank",
                w2["lora"], w2["shares"], w2["none"], "not adapted"),
        Finding(f"W2 to a new class of {FEW} points: from the mean of the inventory (figure) against a new LoRA",
                w2["lora"], w2["mu"], w2["none"], "not adapted"),
        Finding("error for the mean of two changes of rank 4: changes mixed (figure) against factors", factors, mixed,
                nothing, "no change"),
    ]  # fmt: skip


def on_matrices(rng: bl.Rng) -> tuple[float, float, float]:
    """Relative errors for the mean of two changes: the best of mixed factors, of mixed changes, and of none."""
    up, down = (rng.fork(end).normal(torch.empty(2, *shape)) for end, shape in (("up", (48, 4)), ("down", (4, 32))))
    target = (up @ down).mean(0)

    def fit(mixed: Any) -> float:
        logits = torch.zeros(2, requires_grad=True)
        adam = torch.optim.Adam([logits], 0.05)
        for _ in range(200):
            loss = (mixed(logits.softmax(0)[:, None, None]) - target).square().sum() / target.square().sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return float(loss.detach().sqrt())

    return fit(lambda z: (z * up).sum(0) @ (z * down).sum(0)), fit(lambda z: (z * (up @ down)).sum(0)), 1.0
