"""Shared by the claims about score games: a trained teacher on the ring, and students by a distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks.claims.toys import RING, learn, network, points


def teacher(rng: bl.Rng, steps: int = 700) -> bl.Flow:
    """A flow on the ring, trained on its points."""
    return bl.Flow(learn(network(rng), bl.objectives.FlowMatching(), points(rng), rng.fork("teacher"), steps=steps))


def student(
    how: Any, flow: bl.Flow, rng: bl.Rng, steps: int, data: Any = None, peak: float = 1e-3, start: Any = None
) -> tuple[bl.Flow, bl.Sampler]:
    """The student of a distillation after so many steps of the training, with its sampler."""
    batch = points(rng, RING) if data is None else data
    training = Training(steps=steps, batch_size=128, lr=WarmupCosine(peak, 50), ema=None)
    nets = how.networks(flow) if start is None else how.networks(start)
    made = fit(nets, how.objective(flow), how.data(flow, batch, rng.fork("data")), training,
               rng=rng.fork("student"), log=lambda entry: None)  # fmt: skip
    return how.student(flow, made)


def drawn(made: tuple[bl.Flow, bl.Sampler], x0: Tensor, cond: Any = None) -> Tensor:
    """Samples of a student from source points."""
    flow, sampler = made
    return sampler(flow, x0, cond)


def modes(made: Tensor, law: Any = RING) -> float:
    """Share of the modes of a mixture that have at least half of their part of the samples."""
    parts = law.parts()
    nearest = torch.cdist(made.double(), parts.means).argmin(1)
    counts = torch.bincount(nearest, minlength=len(parts.means)).double() / len(made)
    return float((counts >= parts.weights / 2).double().mean())
