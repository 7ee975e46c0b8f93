"""Logistic regression (five coordinates of unequal scale, 400 data, stochastic gradients on 32 of them), where the
minimum of the loss is known. The figure is the loss above it after 2,000 steps, of the averaged weights. Hand-tuned
is the best of nine learning rates, a factor of 4 apart. The form of Adam: rmse of the velocity of a network on the
ring after 400 steps with warm-up and cosine; hand-tuned is the best of five learning rates of AdamW, a factor of 4
apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.training.optim.optimizers import AdamW, DAdaptAdam, DAdaptSGD
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "D-Adaptation"
CLAIM = "It matches hand-tuned learning rates without a learning rate to set."
STEPS = 2000
LRS = tuple(4.0**k for k in range(-5, 4))
STILL = "weights that do not move"
ADAM_LRS = tuple(3e-3 * 4.0**k for k in range(-2, 3))


def problem(rng: bl.Rng) -> Tensor:
    """[400,5] data times their labels, which follow the logits of other weights by chance: the least is finite."""
    like = torch.empty(400, 5, dtype=torch.float64)
    x = rng.fork("x").normal(like) * torch.tensor([0.3, 0.6, 1.0, 2.0, 3.0])
    truth = rng.fork("truth").normal(like[:1])
    chance = rng.fork("y").uniform(400, like)
    return x * torch.where(chance < torch.sigmoid((x * truth).sum(1)), 1.0, -1.0)[:, None]


def loss(rows: Tensor, w: Tensor) -> Tensor:
    return nn.functional.softplus(-(rows @ w)).mean()


def slope(rows: Tensor, w: Tensor) -> Tensor:
    return -(torch.sigmoid(-(rows @ w))[:, None] * rows).mean(0)


def least(rows: Tensor) -> float:
    """The least loss, by Newton's method with halved steps."""
    w = torch.zeros(5, dtype=torch.float64)
    for _ in range(30):
        p = torch.sigmoid(rows @ w)
        move, size = torch.linalg.solve(rows.T @ (rows * (p * (1 - p))[:, None]) / len(rows), slope(rows, w)), 1.0
        while loss(rows, w - size * move) > loss(rows, w) and size > 1e-9:
            size /= 2
        w = w - size * move
    return float(loss(rows, w))


def gap(rows: Tensor, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], order: Tensor) -> float:
    """The loss above the least one of the average of the weights, each with the weight d where there is one."""
    w = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer, total, mass = make([w]), torch.zeros(5, dtype=torch.float64), 0.0
    for part in order:
        w.grad = slope(rows[part], w.detach())
        optimizer.step()
        share = float(optimizer.param_groups[0].get("d", 1.0))
        total, mass = total + share * w.detach(), mass + share
    return float(loss(rows, total / mass)) - least(rows)


def trained(rng: bl.Rng, optimizer: Any, peak: float) -> float:
    """The error of a network on the ring after training with one optimizer."""
    net = learn(network(rng), bl.objectives.FlowMatching(), points(rng), rng.fork("net"), steps=400, peak=peak,
                optimizer=optimizer)  # fmt: skip
    return velocity_error(net, RING, rng)


def measure(rng: bl.Rng) -> list[Finding]:
    return [*descent(rng), *adam(rng)]


def adam(rng: bl.Rng) -> list[Finding]:
    tuned = sorted(trained(rng, AdamW(), lr) for lr in ADAM_LRS)
    found, still = trained(rng, DAdaptAdam(), 1.0), velocity_error(network(rng), RING, rng)
    text = "network on the ring: D-Adaptation of Adam (figure) against AdamW with"
    return [
        finding(f"{text} the best learning rate", tuned[0], found, still, STILL),
        finding(f"{text} the best learning rate, 5% worse", 1.05 * tuned[0], found, still, STILL),
        finding(f"{text} the median of the five", tuned[2], found, still, STILL),
    ]


def descent(rng: bl.Rng) -> list[Finding]:
    rows = problem(rng)
    order = rng.fork("order").integers(len(rows), STEPS * 32).reshape(STEPS, 32)
    tuned = [gap(rows, lambda p, r=r: torch.optim.SGD(p, lr=r), order) for r in LRS]  # type: ignore[misc]
    best = min(range(len(LRS)), key=tuned.__getitem__)
    found = gap(rows, lambda p: DAdaptSGD().build(p, 1.0), order)
    still = float(loss(rows, torch.zeros(5, dtype=torch.float64))) - least(rows)
    near = max(tuned[max(best - 1, 0)], tuned[min(best + 1, len(LRS) - 1)])
    return [
        finding("D-Adaptation (figure) against gradient descent with the best learning rate", tuned[best], found, still,
                STILL),
        finding("the same against the worse of the two learning rates next to the best", near, found, still, STILL),
        finding("the same against the median result of the nine learning rates", sorted(tuned)[len(tuned) // 2], found,
                still, STILL),
    ]  # fmt: skip
