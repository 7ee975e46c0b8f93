"""Optimal transport between noise and velocities of a hierarchical flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from beeline.core.errors import require
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, map_cond
from beeline.couplings.basic import assign
from beeline.fields.flow import bind
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import HEUN


@dataclass(frozen=True)
class VelocityOT:
    """Optimal transport between inner noise and velocities at the same state.

    at each state: ``draws`` velocities of the inner flow ``field``, assigned to ``draws`` noises; one pair is used
    Assumes a trained inner field a(y, tau, cond); its errors are learned with its velocities.
    Source: Zhang et al. 2025, "Hierarchical Rectified Flow Matching with Mini-Batch Couplings" (arXiv 2507.13350).

    >>> ot = VelocityOT(lambda y, tau, cond: 0 * y, draws=4, steps=1)
    >>> ot(Batch(torch.zeros(3, 1), cond={"state": torch.zeros(3, 1)}), Rng(0)).x0.shape
    torch.Size([3, 1])
    """

    field: Any = None  # the inner field of a first training
    draws: Count = 8  # velocities per state; 8 to 32
    steps: Count = 8  # of the inner flow
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        require(
            self.field is not None and batch.cond is not None,
            f"VelocityOT got {'no field' if self.field is None else 'no states'}; it pairs velocities that a trained "
            "inner flow samples at one state: use it in Hierarchical, with field=the inner network of a first training",
        )
        n, m = len(batch.x1), self.draws
        many = map_cond(lambda leaf: leaf.repeat_interleave(m, 0), batch.cond)
        v0 = rng.fork("velocities").normal(batch.x1.repeat_interleave(m, 0))
        with torch.no_grad():
            v1 = integrate(bind(self.field, many), v0, torch.linspace(0, 1, self.steps + 1, dtype=v0.dtype), HEUN)
        noise = rng.fork("noises").normal(v0)
        pick = rng.fork("kept").integers(m, n)
        x0, x1 = [], []
        for i in range(n):
            rows = slice(i * m, (i + 1) * m)
            order = assign(noise[rows], v1[rows])
            x0.append(noise[rows][order[pick[i]]])
            x1.append(v1[rows][pick[i]])
        return replace(batch, x0=torch.stack(x0), x1=torch.stack(x1).to(batch.x1.dtype))
