"""Shared by the claims about personalisation: a flow of the ring with classes, one of which moves to a new place."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.adapting import Adaptation
from benchmarks.claims.toys import even, learn, network, noise, points, sample, w2

CLASSES = 8
LAW = GaussianMixture.ring(CLASSES, labelled=True)
PLACE = torch.tensor([0.5, -0.5])  # where the subject is
FEW = 20  # examples of the subject


@functools.cache
def base(seed: int) -> bl.Flow:
    """A flow of the ring with its classes and their null."""
    rng = bl.Rng(seed).fork("base with classes")
    net = network(rng, conditions={"label": {"classes": CLASSES}})
    objective = bl.objectives.FlowMatching(drop=bl.objectives.matching.Drop(0.1, CLASSES))
    return bl.Flow(learn(net, objective, points(rng, LAW), rng, steps=500), null={"label": CLASSES})


def subject(seed: int, n: int = FEW, name: str = "subject") -> bl.Batch:
    """Examples of the subject, under the label of class 0."""
    x = PLACE + 0.15 * bl.Rng(seed).fork(name).normal(torch.empty(n, 2))
    return bl.Batch(x, cond={"label": torch.zeros(n, dtype=torch.long)})


def tuned(method: Adaptation, seed: int, steps: int = 200, rate: float = 5e-3) -> bl.Flow:
    """The flow after an adaptation to the subject."""
    flow, rng = base(seed), bl.Rng(seed).fork("tuned")
    with rng.fork("start").ambient():
        net = method.networks(flow)["student"]
    data = method.supply(flow, subject(seed), subject(seed), rng.fork("feed"))
    return replace(flow, field=learn(net, method.objective(flow), data, rng, steps=steps, peak=rate))


def to_subject(flow: bl.Flow, seed: int) -> float:
    """W2 distance of samples of class 0 to the subject."""
    x0 = noise(bl.Rng(seed).fork("subject tests"))
    labels = {"label": torch.zeros(len(x0), dtype=torch.long)}
    return w2(sample(flow.field, x0, 20, labels), subject(seed, len(x0), "test").x1)


def to_others(flow: bl.Flow, seed: int) -> float:
    """W2 distance of samples of the other classes to their data."""
    rng = bl.Rng(seed).fork("other tests")
    real, labels = even(LAW, rng, 2 * 512)
    kept = labels != 0
    real, labels = real[kept][:512], labels[kept][:512]
    return w2(sample(flow.field, noise(rng), 20, {"label": labels}), real)


def drawn(field: Any, labels: Tensor, rng: bl.Rng) -> Tensor:
    """The class of the ring that is nearest to every sample."""
    x = sample(field, noise(rng, len(labels)), 20, {"label": labels})
    return torch.cdist(x, LAW.parts().means.float()).argmin(1)


def untrained(seed: int) -> bl.Flow:
    """A flow that has learned nothing."""
    return bl.Flow(network(bl.Rng(seed).fork("none"), conditions={"label": {"classes": CLASSES}}))
