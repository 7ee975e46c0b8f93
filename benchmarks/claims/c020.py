"""Hu et al. 2025: exact values at the data end make velocity and score right where the score divides by 1 - t."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.core.prediction import Boundary, Ends
from benchmarks.claims.toys import RING, finding, learn, network, noise, points, rmse

METHOD = "Boundary conditions of the velocity"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, objective = points(rng), bl.objectives.FlowMatching()
    nets = {
        "plain": network(rng),
        "mask": network(rng, prediction=Boundary()),
        "subtraction": Ends(network(rng), bl.couplings.Independent()),
    }
    x1, x0 = RING.sample(2000, rng.fork("real")).float(), noise(rng, 2000)
    t = torch.full((2000,), 0.99)
    x = 0.01 * x0 + 0.99 * x1
    errors = {}
    for name, net in nets.items():
        net = learn(net, objective, data, rng.fork("net"))
        with torch.no_grad():
            errors[name] = rmse(net(x, t), RING.field()(x, t))
    text = "rmse of the velocity at t = 0.99 (the score error is 99 times that): {} form (figure) against plain"
    return [finding(text.format(name), errors["plain"], errors[name]) for name in ("mask", "subtraction")]
