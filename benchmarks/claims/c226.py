"""Chen, Su and Zhu 2024: contrast with wrong conditions gives guided fidelity without guidance."""

from __future__ import annotations

import copy
from typing import Any

import torch

import beeline as bl
from benchmarks.claims.c142 import trained
from benchmarks.claims.toys import CLASSES, draw, finding, learn, noise

METHOD = "Condition contrastive alignment"


def faithful(x: torch.Tensor, label: torch.Tensor) -> float:
    """The mean posterior probability of the wanted class."""
    means = torch.tensor(CLASSES.means, dtype=x.dtype)
    posterior = torch.softmax(-torch.cdist(x, means).square() / (2 * 0.6**2), 1)
    return float(posterior[torch.arange(len(x)), label].mean())


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, plain = trained(rng)
    objective = bl.objectives.Contrastive(bl.objectives.FlowMatching(), copy.deepcopy(plain), strength=1.0, push=0.2)
    net = learn(copy.deepcopy(plain), objective, data, rng.fork("cca"), steps=300, peak=5e-4)
    x0, label = noise(rng), torch.arange(1000) % 8
    made = [draw(f, x0, 20, {"label": label}) for f in (plain, net)]
    radius = [float((x.norm(dim=1) - 4).abs().mean()) for x in made]
    return [
        finding("mean posterior probability of the wanted class without guidance: aligned (figure) against before",
                faithful(made[0], label), faithful(made[1], label), "higher"),
        finding("mean distance from the circle of the modes, which an overshoot would raise", radius[0], radius[1]),
    ]  # fmt: skip
