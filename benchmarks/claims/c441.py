"""Shin et al. 2025: velocities inside the network, refined by accelerations, make training converge faster."""

from __future__ import annotations

from typing import Any

from torch import nn

import beeline as bl
from beeline.learn.deep import Deep
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error

METHOD = "DeepFlow: deep supervision"
WIDTH = 64


def refiner(rng: bl.Rng) -> nn.Module:
    """Four layers that start at zero."""
    with rng.fork("refiner").ambient():
        net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    return net


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, objective = points(rng), bl.objectives.FlowMatching()
    plain = learn(network(rng), objective, data, rng.fork("net"))
    with rng.fork("heads").ambient():
        velocity, bend, *spare = (nn.Linear(WIDTH, 2) for _ in range(4))
    nn.init.zeros_(bend.weight)
    nn.init.zeros_(bend.bias)
    place = "backbone.block.1"
    deep = Deep(network(rng), [place], [velocity], [bend], [refiner(rng)])
    deep = learn(deep, bl.objectives.DeepSupervision(objective), data, rng.fork("net"))
    same = Deep(network(rng), [place], spare[:1], spare[1:], [refiner(rng)])
    wider = learn(same, objective, data, rng.fork("net"))
    errors = [velocity_error(net, RING, rng) for net in (plain, wider, deep)]
    return [
        finding("rmse of the velocity after 1000 steps: deep supervision (figure) against plain", errors[0], errors[2]),
        finding("the same against the same network without the inner losses", errors[1], errors[2]),
    ]
