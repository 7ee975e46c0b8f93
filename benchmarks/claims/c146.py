"""Pooladian et al. 2023: optimal transport within the batch shortens the pairs and quiets the target."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.neighbors import KNeighborsRegressor

import beeline as bl
from beeline.data.laws import GaussianMixture

METHOD = "Multisample flow matching: minibatch optimal transport"
BATCH, BATCHES = 256, 40


def pairs(coupling: Any, rng: bl.Rng) -> bl.Batch:
    law = GaussianMixture.ring()
    made = [coupling(bl.Batch(law.sample(BATCH, rng.fork("data", i))), rng.fork("pairs", i)) for i in range(BATCHES)]
    return bl.Batch(torch.cat([b.x1 for b in made]), torch.cat([b.x0 for b in made]))


def spread(batch: bl.Batch, t: torch.Tensor) -> float:
    """Variance of the target given state and time, from its 32 nearest neighbours."""
    x, v = bl.paths.Linear().point(batch.x0, batch.x1, t)
    where = torch.cat([x, 4 * t[:, None]], 1).numpy()  # a time step of 0.25 counts like a distance of 1
    mean = KNeighborsRegressor(32).fit(where, v.numpy()).predict(where)
    return float((v - torch.as_tensor(mean)).square().sum(1).mean()) * 32 / 31


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    plain, optimal = (pairs(c, rng) for c in (bl.couplings.Independent(), bl.couplings.MinibatchOT()))
    t = rng.fork("times").uniform(len(plain.x1), plain.x1)
    cost = [float((b.x1 - b.x0).square().sum(1).mean()) for b in (plain, optimal)]
    return [
        {
            "compares": f"E|x1 - x0|^2 on the ring, batch {BATCH}: optimal (figure) against independent pairs",
            "baseline": cost[0],
            "figure": cost[1],
            "better": "lower",
        },
        {
            "compares": "variance of x1 - x0 given (x_t, t), 32 neighbours: optimal (figure) against independent pairs",
            "baseline": spread(plain, t),
            "figure": spread(optimal, t),
            "better": "lower",
        },
    ]
