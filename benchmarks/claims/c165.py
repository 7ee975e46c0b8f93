"""Yu et al. 2025: aligning hidden features with an encoder of the clean datum makes training faster.

In two dimensions aligned features help the first few hundred steps only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import beeline as bl
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error

METHOD = "REPA: representation alignment"


def classes(x: torch.Tensor) -> torch.Tensor:
    """A frozen encoder that knows the structure of the data: the posterior over the eight modes, centred."""
    means = torch.tensor(RING.means, dtype=x.dtype)
    return torch.softmax(-torch.cdist(x, means).square() / 0.18, 1) - 1 / 8


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, rows = points(rng), []
    for steps in (300, 1000):
        plain = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"), steps=steps)
        with rng.fork("head").ambient():
            head = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 8))
        both = bl.networks.Helped(network(rng), head)
        objective = bl.objectives.Aligned(bl.objectives.FlowMatching(), "field.backbone.block.1", classes, 0.5)
        both = learn(both, objective, data, rng.fork("net"), steps=steps)
        before, after = (velocity_error(f, RING, rng) for f in (plain, both))
        rows.append(finding(f"rmse of the velocity after {steps} steps: aligned (figure) against plain", before, after))
    return rows
