"""A flow of the ring with classes is trained on four of them with a change of rank 2 of every layer for each class, on
which a fixed gate turns (a mixture whose shares are one and zero); what all classes share are the weights beside it.
They alone start a flow of four other classes, 120 steps, against a flow that was trained without changes, and against a
random start. Matrices: changes of rank one of each class that are planted in a weight of rank 8, found from the
weights of the classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.members.mixture import Mixture, Task
from benchmarks.claims.mixed import data, distance, shares, tune, with_delta
from benchmarks.claims.toys import network
from benchmarks.claims.verdict import Finding

METHOD = "KIND: common weights and class components by gates"
CLAIM = (
    "What gated training finds common is a better start for new classes than weights that were trained without gates."
)
OLD, NEW, STEPS, FEW = range(4), range(4, 8), 400, 120


def plain(x: Tensor, label: Tensor) -> Tensor:
    return x


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    fresh = [network(bl.Rng(seed).fork("kind", k), conditions={"label": {"classes": 8}}) for k in range(2)]
    gated = with_delta(Mixture((LoRA(2),) * 4, Task(4)), seed, fresh[0]).requires_grad_(True)
    for change in shares(gated):
        change.numbers["gate/logits"].data.copy_(400 * torch.eye(4)[:, None] - 200)
        change.numbers["gate/logits"].requires_grad_(False)
    old, new = data(seed, plain, OLD), data(seed, plain, NEW)
    gated, usual = tune(gated, old, seed, STEPS), tune(fresh[0].requires_grad_(True), old, seed, STEPS)
    starts = (common(gated), usual, fresh[1])
    shared, whole, random = (
        distance(tune(net.requires_grad_(True), new, seed, FEW), seed, plain, NEW) for net in starts
    )
    found, aligned, mean = planted(rng)
    return [
        Finding(f"W2 to new classes after {FEW} steps: common weights (figure) against weights without gates", whole,
                shared, random, "random start"),
        Finding(f"W2 to new classes after {FEW} steps: common weights (figure) against a random start", random, shared,
                random, "random start"),
        Finding("cosine of planted changes of classes, against 0.95", 0.95, aligned, mean, "differences from the mean",
                "higher"),
        Finding("error of the common weight, against 5%", 0.05, found, 1.0, "nothing"),
    ]  # fmt: skip


def common(field: Any) -> Any:
    """The weights beside the changes."""
    assert changed_layers(field)
    return bl.Network(field.backbone.at(0.0).merged(), prediction=field.prediction)


def planted(rng: bl.Rng) -> tuple[float, float, float]:
    """The error of the common weight, the least cosine of a change, and that of the differences from the mean."""
    draw = lambda name, *shape: rng.fork(name).normal(torch.empty(*shape))  # noqa: E731
    w = draw("a", 48, 8) @ draw("b", 8, 32) / 8**0.5
    u, v = draw("u", 4, 48, 1), draw("v", 4, 1, 32)
    every = w + u @ v
    free = [0.3 * draw(n, *s) for n, s in (("p", (48, 8)), ("q", (8, 32)), ("r", (4, 48, 1)), ("s", (4, 1, 32)))]
    p, q, r, s = (f.requires_grad_(True) for f in free)
    adam = torch.optim.Adam([p, q, r, s], 3e-2)
    for step in range(1500):
        adam.param_groups[0]["lr"] = 3e-2 * (1 - step / 1500)
        loss = (p @ q + r @ s - every).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    cosine = torch.nn.functional.cosine_similarity
    least = float(cosine((r @ s).flatten(1), (u @ v).flatten(1)).min())
    mean = float(cosine((every - every.mean(0)).flatten(1), (u @ v).flatten(1)).min())
    return float((p @ q - w).norm() / w.norm()), least, mean
