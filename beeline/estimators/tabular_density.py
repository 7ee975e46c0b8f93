"""Log-probability and counterfactuals of rows under a flow of a table."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import device_of, eval_mode
from beeline.core.protocols.flows import Divergence
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.data.tables.codec.codes import Quantile
from beeline.data.tables.codec.columns import full_cells, plain
from beeline.data.tables.table import Table
from beeline.fields.flow import Flow, bind
from beeline.sampling.sampler import Sampler
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import MIDPOINT


def descent(steps: int, early: float) -> Tensor:
    """Times from 1 - early to 0 with 1 - t in geometric progression, so that steps are finest at the data."""
    require(
        steps >= 1 and 0 < early < 1,
        f"got steps={steps} and early={early}, but steps is at least 1 and early is in (0, 1); change it",
    )
    left = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return (1 - early**left).float().clamp(min=0)


@torch.no_grad()
def log_prob(
    flow: Flow,
    table: Table,
    raw: Any,
    *,
    divergence: Divergence,
    rng: Rng,
    steps: int = 40,
    early: float = 0.03,
) -> Tensor:
    """log p [B] of rows in nats: probability of states and repeated values, density of other numbers in their units.

    At t = 1 - early the distribution of x_t is smooth: a state with probability p is a bump p N((1-early) x1, early^2),
    and a number is hardly blurred; so log p(row) = log p_t((1-early) x1) + sum over states log(early sqrt(2 pi)) per
    coordinate + sum over numbers [log(1-early) - log phi(z) + log dF/dv].
    Assumes an independent Gaussian coupling on the straight path, and bumps that do not overlap (early below 0.1).
    """
    flow.require_score()
    cells = table.cells(raw)
    x1 = cells.coordinates(rng.fork("paint"))
    where, size = device_of(flow) or x1.device, x1.shape[1]
    f = bind(flow.field, None)

    def both(state: Tensor, t: Tensor) -> Tensor:
        v, div = divergence(f, state[:, :size], t)
        return torch.cat([v, div[:, None]], 1)

    x = torch.cat([(1 - early) * x1, x1.new_zeros(len(x1), 1)], 1)
    with eval_mode(flow):
        end = integrate(both, x.to(where), descent(steps, early), MIDPOINT)
    found = (flow.source.log_prob(end[:, :size]) + end[:, size]).double().cpu()
    bump = math.log(early * math.sqrt(2 * math.pi))
    start = 0
    for name, code in table.coded.items():
        width = code.width - (code.number is not None)
        found = found + width * bump
        if code.number is not None:
            z = x1[:, start + width].double()
            found = found + math.log(1 - early) + (z * z / 2 + math.log(math.sqrt(2 * math.pi)))
            full, empty = full_cells(table.columns[name], raw[name])
            slope = torch.zeros(len(x1), dtype=torch.float64)
            values = plain(table.columns[name], full)
            if isinstance(code.number, Quantile):
                slope[torch.from_numpy(~empty)] = torch.from_numpy(code.number.log_slope(values))
            else:
                at = torch.from_numpy(~empty)
                slope[at] = -(z[at] ** 2) / 2 - math.log(math.sqrt(2 * math.pi) * code.number.deviation)
            found = found + slope
        start += code.width
    return found


@torch.no_grad()
def counterfactual(
    flow: Flow, x1: Tensor, old: Cond, new: Cond, *, sampler: Sampler, rng: Rng, early: float = 0.03, steps: int = 40
) -> Tensor:
    """The rows [N,D] of the same source points under another condition.

    x0 = integration of (1-early) x1 + early n to t = 0 under ``old``;  x1' = integration of x0 to t = 1 under ``new``
    The same condition gives the same row.  A state says nothing about its source but the cell it fell into, so the
    noise n draws one of the source points that make this very row.
    Source: Pawlowski, Castro and Glocker 2020 (arXiv 2006.06485): abduction, action, prediction.
    """
    where = device_of(flow) or x1.device
    noise = rng.fork("abduction").normal(x1)
    x = ((1 - early) * x1 + early * noise).to(where)
    with eval_mode(flow):
        x0 = integrate(bind(flow.field, map_cond(lambda leaf: leaf.to(where), old)), x, descent(steps, early), MIDPOINT)
        return sampler(flow, x0, new).to(x1.device)
