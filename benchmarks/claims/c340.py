"""The ring with a learned coupling: W2 distance of few Euler steps of a flow from the Gaussian, and of one and two
steps of a consistency model, whose second noise is that of the encoder. The transport cost of the pairs is not
compared: an encoder that copies the datum would have zero cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import beeline as bl
from beeline.couplings.basic import Paired
from beeline.objectives.maps.consistency import Consistency
from beeline.solvers.consistency import ConsistencyStep
from benchmarks.claims.maps import LONG, fresh
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Variational noise coupling"
CLAIM = "A learned coupling of noise and data lowers the variance of the target, and gives better few-step samples."


class Encoder(nn.Module):
    """Mean and log scale of the source of a datum."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.net(x / 4).reshape(-1, 2, 2)
        return made


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)

    def both() -> Any:
        with rng.fork("encoder").ambient():
            return bl.networks.Helped(network(rng), Encoder())

    plain = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"))
    coupled = learn(both(), bl.objectives.EncodedSource(strength=3.0), data, rng.fork("net"))
    with rng.fork("encoder").ambient():
        maps = [fresh(rng), bl.networks.Helped(fresh(rng), Encoder()), bl.networks.Helped(fresh(rng), Encoder())]
    objectives = (Consistency(), bl.objectives.EncodedSource(Consistency(coupling=Paired()), 3.0))
    learned = [learn(net, o, data, rng.fork("map"), steps=LONG) for net, o in zip(maps, objectives, strict=False)]
    learned.append(maps[2])

    def jumped(net: Any, n: int) -> Any:
        encoder = net.helper if isinstance(net, bl.networks.Helped) else None
        return sample(net, x0, n, solver=ConsistencyStep(encoder=encoder))

    return [
        *(
            finding(f"{n} steps of a consistency model: encoder (figure) against independent pairs",
                    *(w2(jumped(f, n), real) for f in learned))
            for n in (1, 2)
        ),
        *[
        finding(f"{n} Euler steps: encoder with KL weight 3 (figure) against independent pairs",
                *(w2(sample(f, x0, n), real) for f in (plain, coupled, both())))
        for n in (2, 4)
        ],
    ]  # fmt: skip
