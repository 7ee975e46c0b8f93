"""The rmse of the velocity on the ring after 400 steps of a residual network whose activations are those of Cauchy or
SiLU, and the held-out loss of digits of 8 x 8 pixels after 120 steps of a transformer with CauchyFeed or
FeedForward."""

from __future__ import annotations

from typing import Any

from torch import nn

import beeline as bl
from beeline.networks.transformer.feeds import Cauchy, CauchyFeed, FeedForward
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "Cauchy activation"
CLAIM = "A rational activation approximates smooth fields of few dimensions better than usual ones."
SEEDS = 3


def rational(net: Any) -> Any:
    """The network with the activation of Cauchy in place of each SiLU of its blocks."""
    for block in net.backbone.block:
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.SiLU):
                block.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], Cauchy(0.1))
    return net


def measure(rng: bl.Rng) -> list[Finding]:
    plain, data = bl.objectives.FlowMatching(), points(rng)
    ring = [
        velocity_error(learn(net, plain, data, rng.fork("net"), steps=400), RING, rng)
        for net in (network(rng), rational(network(rng)))
    ]
    digits = [held_loss(trained(transformer(rng, feed=feed), rng), rng) for feed in (FeedForward(), CauchyFeed())]
    return [
        finding("ring: Cauchy (figure) against SiLU", *ring, velocity_error(network(rng), RING, rng)),
        finding("digits: Cauchy (figure) against GELU", *digits, held_loss(transformer(rng), rng)),
    ]
