"""Le et al. 2024: one model for all tasks, by times of its own for every part, against a model made for one task.

The one model has all tasks to learn with the same steps; with four times as many it overtakes the specialist.
"""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import finding, learn, network

METHOD = "One diffusion: any part may be given"


def pairs(rng: bl.Rng, n: int) -> torch.Tensor:
    """(x, y) with y = x^2 - 1 + noise, [n, 2, 1]."""
    x = rng.fork("x").normal(torch.empty(n, 1))
    return torch.stack([x, x**2 - 1 + 0.3 * rng.fork("y").normal(x)], 1)


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, test = bl.Batch(pairs(rng.fork("data"), 20_000)), pairs(rng.fork("test"), 3000)
    any_part = bl.objectives.FlowMatching(times=bl.times.Frames(bl.times.Uniform(), 2, clean=0.3))
    one = learn(network(rng, None, shape=(2, 1), frames=2), any_part, data, rng.fork("one"), steps=1500)
    told = bl.Batch(data.x1[:, 1], cond={"given": data.x1[:, 0]})
    special = network(rng, 1, conditions={"given": {"size": 1}})
    special = learn(special, bl.objectives.FlowMatching(), told, rng.fork("special"), steps=1500)
    grid, start = torch.linspace(0, 1, 41), rng.fork("x0").normal(test)

    def forced(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = one(x, torch.stack([torch.ones_like(t), t], 1))
        return v * torch.tensor([[0.0], [1.0]])

    with torch.no_grad():
        both = bl.integrate(forced, torch.stack([test[:, 0], start[:, 1]], 1), grid)[:, 1]
        alone = bl.integrate(lambda x, t: special(x, t, {"given": test[:, 0]}), start[:, 1], grid)

    def error(y: torch.Tensor) -> float:
        rest = (y - (test[:, 0] ** 2 - 1)) / 0.3
        return float(rest.mean().abs() + (rest.var() - 1).abs())

    return [finding("error of mean and variance of y given x: one model of both parts (figure) against a model made "
                    "for y given x", error(alone), error(both))]  # fmt: skip
