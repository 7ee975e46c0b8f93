"""The rmse of the velocity on the ring after 400 steps of a network of three hidden layers whose activations are those
of Cauchy or SiLU, and the held-out loss of digits of 8 x 8 pixels after 120 steps of a transformer with CauchyFeed or
FeedForward."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.embed import sinusoidal_features
from beeline.networks.transformer.feeds import Cauchy, CauchyFeed, FeedForward
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import RING, finding, learn, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "Cauchy activation"
CLAIM = "A rational activation approximates smooth fields of few dimensions better than usual ones."
SEEDS = 3


class Layers(nn.Module):
    """Three hidden layers of 64 channels on a point and its time."""

    def __init__(self, activation: Any):
        super().__init__()
        sizes = [2 + 8, 64, 64, 64]
        made = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), activation())]
        self.layers = nn.Sequential(*made, nn.Linear(64, 2))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        out: Tensor = self.layers(torch.cat([x, sinusoidal_features(t, 8, 10.0).to(x.dtype)], -1))
        return out


def layered(rng: bl.Rng, activation: Any) -> bl.Network:
    with rng.fork("network").ambient():
        return bl.Network(Layers(activation))


def measure(rng: bl.Rng) -> list[Finding]:
    plain, data = bl.objectives.FlowMatching(), points(rng)
    ring = [
        velocity_error(learn(net, plain, data, rng.fork("net"), steps=400), RING, rng)
        for net in (layered(rng, nn.SiLU), layered(rng, lambda: Cauchy(0.1)))
    ]
    digits = [held_loss(trained(transformer(rng, feed=feed), rng), rng) for feed in (FeedForward(), CauchyFeed())]
    return [
        finding("ring: Cauchy (figure) against SiLU", *ring, velocity_error(layered(rng, nn.SiLU), RING, rng)),
        finding("digits: Cauchy (figure) against GELU", *digits, held_loss(transformer(rng), rng)),
    ]
