"""Silvestri et al. 2025: a learned coupling of noise and data lowers the variance of the target."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import beeline as bl
from benchmarks.claims.toys import RING, draw, finding, learn, network, noise, points, w2

METHOD = "Variational noise coupling"


class Encoder(nn.Module):
    """Mean and log scale of the source of a datum."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.net(x / 4).reshape(-1, 2, 2)
        return made


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, x0, real = points(rng), noise(rng), RING.sample(1000, rng.fork("real")).float()
    plain = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("plain"), steps=1500)
    with rng.ambient():
        both = bl.networks.Helped(network(rng), Encoder())
    both = learn(both, bl.objectives.EncodedSource(strength=3.0), data, rng.fork("coupled"), steps=1500)
    with torch.no_grad():
        mean, log = both.helper(real).unbind(1)
        cost = float((real - mean - log.exp() * x0).square().sum(1).mean())
    return [
        finding("E|x1 - x0|^2 of the pairs: encoder with KL weight 3 (figure) against independent",
                float((real - x0).square().sum(1).mean()), cost),
        finding("W2 of one Euler step from the Gaussian: encoder (figure) against independent",
                w2(draw(plain, x0, 1), real), w2(draw(both, x0, 1), real)),
    ]  # fmt: skip
