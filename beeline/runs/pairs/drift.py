"""How far the pairs of a teacher are from the real data, and how straight a student is."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.rng import Rng
from beeline.core.types import Batch, take
from beeline.distillation.pairs import starts
from beeline.evaluation.metrics import Energy
from beeline.evaluation.trajectory import straightness
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import is_ode

ROWS = 2048  # pairs and data that are compared
TRAJECTORIES = 128  # for straightness


class Drift(NamedTuple):
    """The energy distance of generated data to real ones, and of other real data to the same ones.

    The distances are unbiased, so that both are near zero, and may be negative, where the distributions agree.
    """

    distance: float
    real: float | None = None  # None without held-out data

    def text(self) -> str:
        """One line."""
        beside = "" if self.real is None else f" (held-out data: {self.real:.3g})"
        return f"energy distance of the pairs to the data {self.distance:.3g}{beside}"


def drift(made: Tensor, data: Tensor, held: Tensor | None, rng: Rng) -> Drift:
    """The drift of generated data [N,*S] from real ones, on at most ``ROWS`` of each; at least 2 of each."""
    few = lambda x, name: take(Batch(x), rng.fork(name).permutation(len(x))[:ROWS].to(x.device)).x1.cpu()  # noqa: E731
    energy, real = Energy(rows=ROWS), few(data, "data")
    distance = energy(real, few(made, "made"), rng.fork("energy"))
    enough = held is not None and len(held) >= 2
    return Drift(distance, energy(real, few(held, "held"), rng.fork("energy")) if enough and held is not None else None)


def measured(flow: Flow, batch: Batch, rng: Rng) -> dict[str, Any]:
    """The straightness of a student's trajectories from its source, with conditions of a batch; {} without an ODE."""
    if not is_ode(flow):
        return {}
    some = take(batch, torch.arange(min(TRAJECTORIES, len(batch.x1))).to(batch.x1.device))
    x0 = starts(flow, range(len(some.x1)), rng.fork("straightness"), some.x1[:1])
    found = straightness(flow, x0, Sampler(20), some.cond)
    return {"straightness": found.value, "relative_straightness": found.relative, "transport": found.transport}
