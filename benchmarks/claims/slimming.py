"""Shared by the claims about parts that fade in training: a small transformer of the digits loses most of its parts.

The flow is trained for 350 steps, and 80 more while it becomes smaller; losses are those of held-out digits.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.compressing.prune import in_order
from beeline.networks.compressing.removal.slimming import Slimmed
from beeline.networks.compressing.removal.units import units_of
from beeline.networks.transformer.plans.elastic import SubNetwork
from beeline.training.optim.learning_rate import Constant, WarmupCosine
from benchmarks.claims.small_transformers import MATCHING, digits, transformer
from benchmarks.claims.toys import learn

SHARE, BASE, STEPS, RATE = 0.25, 350, 80, 2e-3
Style = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    return x


def turned(x: Tensor) -> Tensor:
    """Digits in another style."""
    return x.rot90(1, (-2, -1))


@functools.cache
def base(seed: int) -> bl.Network:
    """A flow of the digits, trained once for all claims of one seed."""
    rng = bl.Rng(seed).fork("slimming")
    net: bl.Network = tune(transformer(rng, depth=3, heads=4), seed, steps=BASE, rate=3e-3)
    return net.requires_grad_(False)


def tune(
    net: Any, seed: int, style: Style = same, steps: int = STEPS, rate: float = RATE, constant: bool = False
) -> Any:
    """A network trained on the digits in a style, at a learning rate that falls to zero or a constant one."""
    rng = bl.Rng(seed).fork("slimming", steps)
    data, lr = bl.Batch(style(digits()[0].x1)), Constant(rate) if constant else WarmupCosine(rate, steps // 8)
    return learn(net, MATCHING, data, rng, steps=steps, batch_size=64, lr=lr)


def loss(net: Any, seed: int, style: Style = same) -> float:
    """The loss of held-out digits in a style, with fixed noise."""
    x1, rng = style(digits()[1].x1), bl.Rng(seed).fork("slimming", "held")
    x0, t = rng.fork("x0").normal(x1), rng.fork("t").uniform(len(x1), x1)
    with torch.no_grad():
        v = net(x0 + t[:, None, None, None] * (x1 - x0), t)
    return float((v - (x1 - x0)).square().mean())


@torch.no_grad()
def at_once(net: bl.Network, share: float = SHARE) -> bl.Network:
    """The network without the parts that have the smallest weights."""
    made = copy.deepcopy(net)
    for unit in units_of(made, "at_once").values():
        in_order(unit, unit.by_unit(unit.last.weight.square().sum(0)))
    made.backbone = SubNetwork(made.backbone, share, own=True)
    return made


def fading(net: bl.Network, seed: int, delta: Any = None, **settings: Any) -> bl.Network:
    """A copy whose parts fade when it is trained, with all weights or a delta."""
    made = copy.deepcopy(net)
    with bl.Rng(seed).fork("delta").ambient():
        inner = made.backbone.requires_grad_(True) if delta is None else Adapted(made.backbone, delta)
    made.backbone = Slimmed(inner, **{"share": SHARE, **settings})
    return made


def slim(net: Any) -> bl.Network:
    """A copy without what has faded."""
    made: bl.Network = copy.deepcopy(net)
    made.backbone = net.backbone.slim()
    return made


def difference(first: nn.Module, second: nn.Module, seed: int) -> float:
    """The largest difference of velocities."""
    x, t = bl.Rng(seed).fork("x").normal(torch.empty(64, 1, 8, 8)), torch.linspace(0, 1, 64)
    with torch.no_grad():
        return float((first(x, t) - second(x, t)).abs().max())
