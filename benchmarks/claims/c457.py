"""Sixteen modes on a ring, in four alternating classes; the network gets the class, as in the paper. Faster training is
a smaller W2 distance to the data (16 Euler steps) after equal training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import beeline as bl
from beeline.data.distributions.mixtures import GaussianMixture
from benchmarks.claims.toys import even, finding, learn, network, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Linear separability of hidden features"
CLAIM = "A linear probe on hidden features makes training better, without an external encoder."
KINDS, LAW = 4, GaussianMixture.ring(16, std=0.2)
LABEL = {"label": {"classes": KINDS}}


def labelled(x: torch.Tensor) -> torch.Tensor:
    """The class of the nearest mode."""
    return torch.cdist(x, torch.tensor(LAW.means, dtype=x.dtype)).argmin(1) % KINDS


def measure(rng: bl.Rng) -> list[Finding]:
    x1, x0, (real, _) = LAW.sample(10_000, rng.fork("data")).float(), noise(rng), even(LAW, rng)
    data, cond, base = (
        bl.Batch(x1, cond={"label": labelled(x1)}),
        {"label": labelled(real)},
        bl.objectives.FlowMatching(),
    )
    objective = bl.objectives.Separable(base, "field.backbone.block.1")
    wanted = torch.cat([real, 2.0 * nn.functional.one_hot(cond["label"], KINDS)], 1)  # pairs of point and class

    def error(net: Any) -> float:
        return w2(torch.cat([sample(net, x0, 16, cond), wanted[:, 2:]], 1), wanted)

    rows = []
    for steps in (300, 800):
        with rng.fork("head").ambient():
            both = bl.networks.Helped(network(rng, conditions=LABEL), nn.Linear(64, KINDS))
        nets = [
            learn(network(rng, conditions=LABEL), base, data, rng.fork("net"), steps=steps),
            learn(both, objective, data, rng.fork("net"), steps=steps),
            network(rng, conditions=LABEL),
        ]
        rows.append(finding(f"{steps} steps of training: with a linear probe (figure) against plain",
                            *map(error, nets)))  # fmt: skip
    return rows
