"""Exact likelihoods of a flow, by integrating the divergence beside the state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from beeline.core.field import Flow, bind
from beeline.core.integrate import integrate
from beeline.core.rng import Rng
from beeline.core.schedule import Uniform
from beeline.core.solver import HEUN, Solver
from beeline.core.types import Cond, Dynamics, require


class Divergence(Protocol):
    """(f, x [B,*S], t [B]) -> (v [B,*S], div v [B])."""

    def __call__(self, f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Exact:
    """The divergence itself, one backward pass per coordinate.

    div v = sum_i dv_i / dx_i
    Assumes that samples do not influence each other (no batch norm).  Cost: D backward passes.
    Source: Chen et al. 2018, "Neural Ordinary Differential Equations" (arXiv 1806.07366).

    >>> v, div = Exact()(lambda x, t: 2 * x, torch.ones(1, 3), torch.zeros(1))
    >>> float(div)
    6.0
    """

    def __call__(self, f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, v, keep = _velocity(f, x, t)
        with torch.enable_grad():  # the sums belong to the graph even where the caller keeps none
            columns = v.flatten(1).sum(0).unbind()
        total = torch.zeros_like(v.flatten(1)[:, 0])
        for i, column in enumerate(columns):
            (slope,) = torch.autograd.grad(column, x, retain_graph=True, create_graph=keep, materialize_grads=True)
            total = total + slope.flatten(1)[:, i]
        return (v, total) if keep else (v.detach(), total)


@dataclass(frozen=True)
class Hutchinson:
    """An unbiased estimate of the divergence from random probes, fixed along the trajectory.

    div v ~ mean over probes of e^T (dv/dx) e,  e of independent signs
    Assumes that samples do not influence each other.  Cost: one backward pass per probe.
    Source: Grathwohl et al. 2019, "FFJORD" (arXiv 1810.01367).

    >>> v, div = Hutchinson(Rng(0))(lambda x, t: 2 * x, torch.ones(1, 3), torch.zeros(1))
    >>> float(div)
    6.0
    """

    rng: Rng
    probes: int = 1  # more probes, less variance; the standard error falls with their square root

    def __post_init__(self) -> None:
        require(self.probes >= 1, f"Hutchinson got probes={self.probes}; an estimate needs at least one probe")

    def __call__(self, f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, v, keep = _velocity(f, x, t)
        total = torch.zeros_like(v.flatten(1)[:, 0])
        for k in range(self.probes):
            probe = torch.where(self.rng.fork(k).fill(x.detach()) < 0.5, -1.0, 1.0).to(x.dtype)
            last = k == self.probes - 1 and not keep
            with torch.enable_grad():  # the sum belongs to the graph even where the caller keeps none
                product = (v * probe).sum()
            (slope,) = torch.autograd.grad(
                product, x, retain_graph=not last, create_graph=keep, materialize_grads=True
            )
            total = total + (slope * probe).flatten(1).sum(1)
        total = total / self.probes
        return (v, total) if keep else (v.detach(), total)


def log_prob(
    flow: Flow,
    x1: Tensor,
    cond: Cond = None,
    *,
    steps: int = 50,
    solver: Solver = HEUN,
    divergence: Divergence | None = None,
) -> Tensor:
    """log p(x1) in nats, [B], by walking back to the source.

    log p1(x1) = log p0(x0) - integral over [0,1] of div v(x_t, t) dt.  ``divergence`` is Exact() or
    Hutchinson(rng, probes).  Gradients flow to the field and to x1 when they are enabled.
    Source: Chen et al. 2018 (arXiv 1806.07366).  ValueError when the source has no density.
    """
    measure = divergence or Exact()
    f = bind(flow.field, cond)
    shape, size = x1.shape, math.prod(x1.shape[1:])

    def both(state: Tensor, t: Tensor) -> Tensor:
        v, div = measure(f, state[:, :size].reshape(shape), t)
        return torch.cat([v.flatten(1), div[:, None]], 1)

    start = torch.cat([x1.flatten(1), torch.zeros_like(x1.flatten(1)[:, :1])], 1)
    end = integrate(both, start, Uniform()(steps, 1.0, 0.0), solver)
    # the last column fell from 0 at t=1 by the integral over [0,1]
    return flow.source.log_prob(end[:, :size].reshape(shape)) + end[:, size]


def bits_per_dimension(log_p: Tensor, size: int, levels: int = 256, width: float = 2.0) -> Tensor:
    """Bits per dimension of data of ``levels`` integer values, dequantised and scaled to an interval of ``width``.

    bpd = -log p / (D ln 2) + log2(levels / width);  for 8-bit images in [-1, 1] the offset is 7.
    """
    return -log_p / (size * math.log(2)) + math.log2(levels / width)


def _velocity(f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, bool]:
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if keep and x.requires_grad else x.detach().requires_grad_()
        v = f(x, t)
        if not v.requires_grad:  # a constant field has no graph, and no divergence
            v = v + 0 * x
    return x, v, keep
