"""rmse of the velocity on the ring after 300 steps, of averaged weights. Tuned is the best of four learning rates, a
factor of 3 apart; gradients are clipped at norm 1 as by default."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import beeline as bl
from beeline.training.optim.ema import PowerEMA
from beeline.training.optim.learning_rate import Constant
from beeline.training.optim.optimizers import AdamW, DoG, OptimizerBase
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "DoG: distance over gradients"
SEEDS = 4
CLAIM = "DoG matches tuned gradient descent without a learning rate; L-DoG approaches tuned Adam."


@dataclass(frozen=True)
class Descent(OptimizerBase):
    """Plain stochastic gradient descent."""

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr)


def measure(rng: bl.Rng) -> list[Finding]:
    data, objective = points(rng), bl.objectives.FlowMatching()

    def error(optimizer: Any, lr: float) -> float:
        net = learn(network(rng), objective, data, rng.fork("net"), steps=300, optimizer=optimizer,
                    lr=Constant(lr), ema=PowerEMA(0.1))  # fmt: skip
        return velocity_error(net, RING, rng)

    descent = [error(Descent(), lr) for lr in (0.01, 0.03, 0.1, 0.3)]
    adam = [error(AdamW(), lr) for lr in (1e-3, 3e-3, 9e-3, 2.7e-2)]
    whole, layers = error(DoG(), 1.0), error(DoG(layers=True), 1.0)
    raw = velocity_error(network(rng), RING, rng)
    best = min(descent)
    return [
        finding("DoG (figure) against gradient descent with the best learning rate", best, whole, raw),
        finding("DoG (figure) against gradient descent with the second best learning rate", sorted(descent)[1], whole,
                raw),
        finding("L-DoG (figure) against Adam with the best learning rate", min(adam), layers, raw),
        finding("distance to tuned Adam: L-DoG (figure) against tuned gradient descent", best - min(adam),
                layers - min(adam), raw - min(adam)),
    ]  # fmt: skip
