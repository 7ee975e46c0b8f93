"""Random draws around a trained LoRA, as wide as its loss on held-out data allows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import LoRA, changed_layers

LEAST = 1e-6  # singular values of ``up`` relative to the largest; noise in smaller ones would be huge


def drawn(network: nn.Module, spread: float, rng: Rng) -> nn.Module:
    """A copy of a network whose LoRAs are draws from a Gaussian around them; with ``spread`` 0 it is an equal one.

    scale B = U diag(d) V^T;  W + U (diag(d) V^T A + spread E),  E [rank,in] standard normal
    The change of a weight has the covariance spread^2 U U^T for every input: it is isotropic in the outputs of B.
    Source: Shi et al. 2024, "Training-Free Bayesianization for Low-Rank Adapters of Large Language Models" (arXiv
    2412.05723).
    Raises ValueError where a layer has no LoRA as its last change.
    """
    made = copy.deepcopy(network)
    layers = changed_layers(made)
    require(
        bool(layers), f"draws of LoRAs were asked for, and {type(network).__name__} has no changed layers; adapt it"
    )
    for name, layer in layers.items():
        last: Any = layer.changes[-1]
        require(
            isinstance(last.delta, LoRA),
            f"draws are of LoRAs, and the layer {name!r} has the delta {last.delta!r}; adapt the network with LoRA, or "
            "extract one from its weights by networks.adapters.starts.extract",
        )
        up, down = (last.numbers[end].detach().double() for end in ("up", "down"))
        _, d, v = torch.linalg.svd(last.delta.scale * up, full_matrices=False)
        inverse = torch.where(d > LEAST * d[:1], 1 / d.clamp(min=torch.finfo(d.dtype).tiny), 0.0)
        e = rng.fork(name).normal(down)
        last.numbers["down"].data.copy_(down + spread * v.mT @ (inverse[:, None] * e))
    return made


@torch.no_grad()
def largest_spread(
    network: nn.Module,
    loss: Callable[[nn.Module], Tensor | float],
    rng: Rng,
    tolerance: float = 0.01,
    draws: int = 4,
    span: tuple[float, float] = (1e-4, 0.2),
    halvings: int = 10,
) -> float:
    """The largest spread in ``span`` whose draws have a loss at most 1 + ``tolerance`` times that of the network.

    Bisection in the logarithm; it is the mean loss of ``draws`` networks, with the same random numbers for all spreads.
    ``loss`` has fixed noise and times, and data that were not trained on.  Raises ValueError where the least spread
    already costs more, and for a loss that is not positive.
    """
    most = (1 + tolerance) * float(loss(network))
    require(
        most > 0 and tolerance > 0 and draws >= 1 and 0 < span[0] < span[1],
        f"a spread was asked for with the loss {most / (1 + tolerance):g}, tolerance={tolerance}, draws={draws} and "
        f"span={span}; give a positive loss and tolerance, one or more draws, and a span that grows from above 0",
    )

    def fits(spread: float) -> bool:
        return fmean(float(loss(drawn(network, spread, rng.fork(k)))) for k in range(draws)) <= most

    low, high = span
    require(
        fits(low),
        f"the least spread {low:g} already costs more than {tolerance:.2%} of the loss; give a smaller span[0], or a "
        "larger tolerance",
    )
    if fits(high):
        return high
    for _ in range(halvings):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
