"""Minimisation without gradients: evolution of a covariance matrix, and of few numbers of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from beeline.core.errors import require
from beeline.core.ranges import Count, Positive, dataclass
from beeline.core.rng import Rng


@dataclass(frozen=True)
class Evolution:
    """Evolution strategy with an adapted covariance matrix (CMA-ES), of a loss of which only values are known.

    z_i ~ N(m, s^2 C);  m <- sum_i w_i z_(i) over the better half;  C and s follow the path of m
    Costs O(n^2) numbers and an eigendecomposition for every generation: for up to some hundred numbers.
    Source: Hansen 2016, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772).

    >>> found = Evolution(evaluations=600).minimise(lambda z: float((z - 1).square().sum()), torch.zeros(3), Rng(0))
    >>> bool((found - 1).abs().max() < 1e-3)
    True
    """

    evaluations: Count = 3000  # of the loss, whole generations
    population: Count = 16  # at least 4
    deviation: Positive = 0.5  # of the first generation

    def __post_init__(self) -> None:
        require(
            self.population >= 4,
            f"Evolution got population={self.population}; the better half is averaged: give at least 4",
        )

    def minimise(self, loss: Callable[[Tensor], float], start: Tensor, rng: Rng) -> Tensor:
        """The mean [n] of the last generation, float64; the first one is around ``start`` [n]."""
        n, size = start.numel(), self.population
        mean = start.detach().double().cpu().flatten()
        half = size // 2
        w = torch.log(torch.tensor(half + 0.5)).double() - torch.arange(1, half + 1).double().log()
        w = w / w.sum()
        mass = float(1 / w.square().sum())
        c_path, c_size = (4 + mass / n) / (n + 4 + 2 * mass / n), (mass + 2) / (n + mass + 5)
        c_one = 2 / ((n + 1.3) ** 2 + mass)
        c_many = min(1 - c_one, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
        damping = 1 + 2 * max(0.0, ((mass - 1) / (n + 1)) ** 0.5 - 1) + c_size
        expected = n**0.5 * (1 - 1 / (4 * n) + 1 / (21 * n**2))  # of the length of a normal vector
        covariance = torch.eye(n, dtype=torch.float64)
        path, conjugate, sigma = torch.zeros_like(mean), torch.zeros_like(mean), self.deviation
        for generation in range(1, max(1, self.evaluations // size) + 1):
            sizes, axes = torch.linalg.eigh(covariance)
            root = sizes.clamp(min=1e-20).sqrt()
            noise = rng.fork("generation", generation).normal(mean.new_empty(size, n))
            steps = (noise * root) @ axes.mT
            values = torch.tensor([loss(mean + sigma * y) for y in steps], dtype=torch.float64)
            best = steps[values.nan_to_num(nan=float("inf")).argsort()[:half]]
            y = w @ best
            mean = mean + sigma * y
            conjugate = (1 - c_size) * conjugate + (c_size * (2 - c_size) * mass) ** 0.5 * (
                axes @ ((axes.mT @ y) / root)
            )
            length = float(conjugate.norm())
            steady = length / (1 - (1 - c_size) ** (2 * generation)) ** 0.5 < (1.4 + 2 / (n + 1)) * expected
            path = (1 - c_path) * path + steady * (c_path * (2 - c_path) * mass) ** 0.5 * y
            covariance = (
                (1 - c_one - c_many + (not steady) * c_one * c_path * (2 - c_path)) * covariance
                + c_one * path.outer(path)
                + c_many * (best.mT * w) @ best
            )
            sigma *= float(torch.tensor(c_size / damping * (length / expected - 1)).exp())
        return mean


def evolved(
    network: nn.Module,
    loss: Callable[[nn.Module], float],
    rng: Rng,
    search: Evolution | None = None,
    size: int = 50,
    spread: float = 1.0,
) -> Any:
    """The network with its trainable numbers changed, in place, so that a loss of forward passes alone is small.

    p = p_0 + A z,  z [size] by evolution,  A fixed with entries N(0, spread^2 / size), or I where there are no more
    numbers than ``size``
    ``loss`` has to use the same random numbers in every call: the noise of other ones exceeds the differences.
    Source: Sun et al. 2022, "BBTv2: Towards a Gradient-Free Future with Large Language Models" (arXiv 2205.11200), all
    numbers at once.
    Raises ValueError for a network without trainable numbers.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    require(
        bool(trained) and size >= 1,
        f"evolution of {size} numbers of a network with {len(trained)} trainable tensors; give a size from 1, and a "
        "network with an adapter",
    )
    with torch.no_grad():
        first = parameters_to_vector(trained)
        few = len(first) <= size
        mixing = None if few else spread * rng.fork("mixing").normal(first.new_empty(len(first), size)) / size**0.5

        def put(z: Tensor) -> None:
            z = z.to(first)
            vector_to_parameters(first + (z if mixing is None else mixing @ z), trained)

        def value(z: Tensor) -> float:
            put(z)
            return loss(network)

        count = len(first) if few else size
        put((search or Evolution()).minimise(value, torch.zeros(count), rng.fork("search")))
    return network
