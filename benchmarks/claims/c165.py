"""The ring with the posterior over its modes as the encoder; rmse of the velocity."""

from __future__ import annotations

import torch
from torch import nn

import beeline as bl
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "REPA: representation alignment"
CLAIM = "Aligning hidden features with an encoder of the clean datum makes training several times faster."


def classes(x: torch.Tensor) -> torch.Tensor:
    """A frozen encoder that knows the structure of the data: the posterior over the eight modes, centred."""
    means = torch.tensor(RING.means, dtype=x.dtype)
    return torch.softmax(-torch.cdist(x, means).square() / 0.18, 1) - 1 / 8


def measure(rng: bl.Rng) -> list[Finding]:
    data, rows = points(rng), []
    for steps in (250, 800):
        plain = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"), steps=steps)
        with rng.fork("head").ambient():
            head = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 8))
        both = bl.networks.Helped(network(rng), head)
        objective = bl.objectives.Aligned(bl.objectives.FlowMatching(), "field.backbone.block.1", classes, 0.5)
        both = learn(both, objective, data, rng.fork("net"), steps=steps)
        before, after = (velocity_error(f, RING, rng) for f in (plain, both))
        rows.append(finding(f"{steps} steps of training: aligned (figure) against plain", before, after,
                            velocity_error(network(rng), RING, rng)))  # fmt: skip
    return rows
