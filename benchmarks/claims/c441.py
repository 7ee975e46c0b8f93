"""rmse of the velocity on the ring after equal training. The network without the inner losses has the same size."""

from __future__ import annotations

from typing import Any

from torch import nn

import beeline as bl
from beeline.objectives.deep_supervision import Deep
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "DeepFlow: deep supervision"
CLAIM = "Velocities inside the network, refined by accelerations, make training converge several times faster."
SEEDS = 4
WIDTH, PLACE = 64, "backbone.block.1"


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer, which starts at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def deep(rng: bl.Rng) -> Any:
    """The small network with an inner velocity, an acceleration and a refiner after its middle block."""
    with rng.fork("heads").ambient():
        velocity, bend = nn.Linear(WIDTH, 2), zeroed(nn.Linear(WIDTH, 2))
        refiner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), zeroed(nn.Linear(WIDTH, WIDTH)))
    return Deep(network(rng), [PLACE], [velocity], [bend], [refiner])


def measure(rng: bl.Rng) -> list[Finding]:
    data, objective, rows = points(rng), bl.objectives.FlowMatching(), []
    for steps in (250, 600):
        nets = [
            learn(net, loss, data, rng.fork("net"), steps=steps)
            for net, loss in (
                (network(rng), objective),
                (deep(rng), objective),
                (deep(rng), bl.objectives.DeepSupervision(objective)),
            )
        ]
        plain, same, figure, first = (velocity_error(net, RING, rng) for net in (*nets, deep(rng)))
        rows += [
            finding(f"{steps} steps: deep supervision (figure) against plain", plain, figure, first),
            finding(f"{steps} steps: with the inner losses (figure) against the same network without", same, figure,
                    first),
        ]  # fmt: skip
    return rows
