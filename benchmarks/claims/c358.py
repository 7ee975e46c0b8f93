"""Share of samples that are of a class of the ring, for a learned row of the table of classes: trained through the
last steps of the sampler by the exact posterior of the classes, with a second judge."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from benchmarks.claims.subjects import CLASSES, LAW, base, drawn
from benchmarks.claims.verdict import Finding

METHOD = "discriminative class tokens: a condition from a scorer"
CLAIM = "More accurate classes without pictures of them."
START, WANTED, STEPS, ROUNDS = 3, 4, 10, 60  # the row begins at the neighbour of the wanted class


def measure(rng: bl.Rng) -> list[Finding]:
    before, one, all_steps, nothing = (share(token(rng, through), rng) for through in (-1, 1, STEPS, 0))
    return [
        Finding(
            "share of the wanted class: gradient of the last step against the first row",
            before,
            one,
            nothing,
            "no step",
            "higher",
        ),
        Finding(
            "share of the wanted class: gradient of all steps against 90%", 0.9, all_steps, nothing, "no step", "higher"
        ),
        Finding(
            "share of the wanted class: gradient of the last step against that of all",
            all_steps,
            one,
            nothing,
            "no step",
            "higher",
        ),
    ]


def token(rng: bl.Rng, through: int) -> Any:
    """The flow whose null row is the learned one; ``through`` steps have a gradient, -1 is the row at first."""
    field: Any = copy.deepcopy(base(rng.seed).field)
    table = field.backbone.embed.cond.parts[0].weight
    table.data[CLASSES] = table.data[START]
    if through < 0:
        return field
    parts = LAW.parts()
    means, spread = parts.means.float(), float(parts.variances.mean())
    adam = torch.optim.Adam([table.requires_grad_(True)], lr=0.05)
    for k in range(ROUNDS):
        x: Tensor = rng.fork("noise", k).normal(torch.empty(64, 2))
        cond = {"label": torch.full((64,), CLASSES)}
        for i in range(STEPS):
            with torch.set_grad_enabled(i >= STEPS - through):
                x = x + field(x, torch.full((64,), i / STEPS), cond) / STEPS
        if not x.requires_grad:
            return field
        score = -torch.cdist(x, means).square() / (2 * spread)
        loss = torch.nn.functional.cross_entropy(score, torch.full((64,), WANTED))
        adam.zero_grad()
        loss.backward()
        table.grad[:CLASSES] = 0
        adam.step()
    return field


def share(field: Any, rng: bl.Rng) -> float:
    """The share of samples with the learned row that are nearest to the wanted class."""
    labels = torch.full((512,), CLASSES)
    return float((drawn(field, labels, rng.fork("judge")) == WANTED).float().mean())
