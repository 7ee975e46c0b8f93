"""Likelihoods of a flow, by integrating the divergence with the state."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import check_together, eval_mode
from beeline.core.protocols.flows import Divergence, Gradient, Solver
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, map_cond
from beeline.density.adjoint import Stored, graph_leaves
from beeline.fields.flow import Flow, bind
from beeline.solvers.process import process_of, require_ode
from beeline.solvers.runge_kutta import HEUN
from beeline.solvers.wrappers import complete
from beeline.times.schedules import Uniform


@dataclass(frozen=True)
class Exact:
    """The exact divergence, by one backward pass per coordinate.

    div v = sum_i dv_i / dx_i
    Assumes independent samples (no batch norm).
    Source: Chen et al. 2018, "Neural Ordinary Differential Equations" (arXiv 1806.07366).

    >>> v, div = Exact()(lambda x, t: 2 * x, torch.ones(1, 3), torch.zeros(1))
    >>> float(div)
    6.0
    """

    def __call__(self, f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, v, keep = _velocity(f, x, t)
        with torch.enable_grad():  # the sums need a graph even under no_grad
            columns = v.flatten(1).sum(0).unbind()
        total = torch.zeros_like(v.flatten(1)[:, 0])
        for i, column in enumerate(columns):
            (slope,) = torch.autograd.grad(column, x, retain_graph=True, create_graph=keep, materialize_grads=True)
            total = total + slope.flatten(1)[:, i]
        return (v, total) if keep else (v.detach(), total)


@dataclass(frozen=True)
class Hutchinson:
    """Hutchinson's unbiased estimate of the divergence, with random probes fixed along the trajectory.

    div v ~ mean over probes of e^T (dv/dx) e,  e of independent random signs;  one backward pass per probe
    Assumes independent samples (no batch norm).
    Source: Grathwohl et al. 2019, "FFJORD" (arXiv 1810.01367).

    >>> v, div = Hutchinson(Rng(0))(lambda x, t: 2 * x, torch.ones(1, 3), torch.zeros(1))
    >>> float(div)
    6.0
    """

    rng: Rng
    probes: int = 1  # at least 1; the standard error falls with the square root

    def __post_init__(self) -> None:
        require(
            self.probes >= 1,
            f"Hutchinson got probes={self.probes}; an estimate needs at least one probe: set an integer from 1",
        )

    def __call__(self, f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, v, keep = _velocity(f, x, t)
        total = torch.zeros_like(v.flatten(1)[:, 0])
        for k in range(self.probes):
            probe = _signs(self.rng.fork(k), x.detach())
            last = k == self.probes - 1 and not keep
            with torch.enable_grad():  # the sum needs a graph even under no_grad
                product = (v * probe).sum()
            (slope,) = torch.autograd.grad(product, x, retain_graph=not last, create_graph=keep, materialize_grads=True)
            total = total + (slope * probe).flatten(1).sum(1)
        total = total / self.probes
        return (v, total) if keep else (v.detach(), total)


@dataclass(frozen=True)
class HutchPlusPlus:
    """Hutch++: the exact trace on a small subspace and Hutchinson's estimate on its complement.

    div v ~ tr(Q^T J Q) + mean of g^T P J P g,  Q an orthonormal basis of J^T S,  P = I - Q Q^T,  S and g random signs
    Assumes independent samples (no batch norm).  One backward pass per probe, a third each for S, Q and g.  Unbiased;
    exact if J has at most rank probes/3.
    Source: Meyer et al. 2021, "Hutch++: Optimal Stochastic Trace Estimation" (arXiv 2010.09649).

    >>> v, div = HutchPlusPlus(Rng(0), 3)(lambda x, t: 2 * x, torch.ones(1, 1), torch.zeros(1))
    >>> float(div)
    2.0
    """

    rng: Rng
    probes: int = 6  # backward passes, a multiple of 3

    def __post_init__(self) -> None:
        require(
            self.probes >= 3 and self.probes % 3 == 0,
            f"HutchPlusPlus got probes={self.probes}; they are divided into three equal parts: set a multiple of 3",
        )

    def __call__(self, f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, v, keep = _velocity(f, x, t)
        k = self.probes // 3
        flat = x.detach().flatten(1)
        signs = torch.stack([_signs(self.rng.fork(i), flat) for i in range(2 * k)], 2)  # [B,D,2k]

        def rows(directions: Tensor) -> Tensor:
            """J^T applied to every column of [B,D,n]."""
            out = []
            for column in directions.unbind(2):
                with torch.enable_grad():  # the sum needs a graph even under no_grad
                    product = (v.flatten(1) * column).sum()
                (slope,) = torch.autograd.grad(product, x, retain_graph=True, create_graph=keep, materialize_grads=True)
                out.append(slope.flatten(1))
            return torch.stack(out, 2)

        basis = torch.linalg.qr(rows(signs[:, :, :k]).detach()).Q
        rest = signs[:, :, k:]
        rest = rest - basis @ (basis.mT @ rest)
        total = (basis * rows(basis)).sum((1, 2)) + (rest * rows(rest)).sum((1, 2)) / k
        return (v, total) if keep else (v.detach(), total)


def log_prob(
    flow: Flow,
    x1: Tensor,
    cond: Cond = None,
    *,
    steps: int = 50,
    solver: Solver = HEUN,
    divergence: Divergence | None = None,
    gradient: Gradient | None = None,
) -> Tensor:
    """Log-likelihood log p(x1) in nats, [B], of data ``x1`` [B,*S], by integration to the source.

    log p1(x1) = log p0(x0) - integral over [0,1] of div v(x_t, t) dt.  ``divergence`` is Exact(),
    Hutchinson(rng, probes) or HutchPlusPlus(rng, probes).  Differentiable in the field, the condition and x1; no graph
    is recorded if none of them requires a gradient.  ``gradient`` determines what is stored for the backward pass:
    Stored(), Checkpointed() or Adjoint().  The data are on the device of the flow, whose networks are in evaluation
    mode during the call.  On a manifold the density is with respect to its area.

    Raises ValueError for a stochastic solver, for a flow that is not sampled by an ODE, and for a source without a
    density.
    Source: Chen et al. 2018 (arXiv 1806.07366).
    """
    require_ode(flow, "a likelihood")
    process, times = process_of(flow), Uniform()(steps, 1.0, 0.0)
    solver = process.adapt_solver(solver)
    process.check(flow, solver, times)
    traits = complete(solver).traits
    require(
        not traits.stochastic and not traits.augmented_state,
        f"log_prob got the solver {type(solver).__name__}, which "
        f"{'adds noise' if traits.stochastic else 'has an augmented state'}; the change of variables holds for the "
        "plain ODE: use a solver such as HEUN or Adaptive()",
    )
    check_together("the data", x1, flow)
    with eval_mode(flow, grad=True):
        return _log_prob(flow, x1, cond, times, solver, divergence, gradient)


def _log_prob(
    flow: Flow,
    x1: Tensor,
    cond: Cond,
    times: Tensor,
    solver: Solver,
    divergence: Divergence | None,
    gradient: Gradient | None,
) -> Tensor:
    """``log_prob`` of a flow in evaluation mode."""
    measure = divergence or Exact()
    f = bind(flow.field, map_cond(lambda leaf: leaf.to(x1.device), cond))
    shape, size = x1.shape, math.prod(x1.shape[1:])
    f, solver = process_of(flow).likelihood(flow, f, solver, shape)

    def both(state: Tensor, t: Tensor) -> Tensor:
        v, div = measure(f, state[:, :size].reshape(shape), t)
        return torch.cat([v.flatten(1), div[:, None]], 1)

    start = torch.cat([x1.flatten(1), torch.zeros_like(x1.flatten(1)[:, :1])], 1)
    wanted = torch.is_grad_enabled() and (x1.requires_grad or bool(graph_leaves(f, x1, times[:1])))
    with torch.set_grad_enabled(wanted):
        end = (gradient or Stored())(both, start, times, solver)
        # the last column fell from 0 at t=1 by the integral over [0,1]
        return flow.source.log_prob(end[:, :size].reshape(shape)) + end[:, size]


def dequantise(values: Tensor, rng: Rng, levels: int = 256, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Uniform dequantisation of integers 0 .. levels-1, scaled to [low, high); float32 with the shape of ``values``."""
    require(
        not values.is_floating_point() and bool(((values >= 0) & (values < levels)).all()),
        f"dequantise got {values.dtype} from {float(values.min()):.6g} to {float(values.max()):.6g}; with "
        f"levels={levels} it takes integers from 0 to {levels - 1}: convert the data, or set levels",
    )
    exact = values.to(torch.float32)
    return low + (high - low) * (exact + rng.fill(exact)) / levels


def bits(
    flow: Flow,
    values: Tensor,
    cond: Cond = None,
    *,
    rng: Rng,
    levels: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    draws: int = 1,
    steps: int = 50,
    solver: Solver = HEUN,
    divergence: Divergence | None = None,
) -> Tensor:
    """Bits per dimension [B] of integer data 0 .. levels-1 [B,*S], by uniform dequantisation to [low, high].

    -log2 of the mean of p(values + u) over ``draws`` samples of u, per dimension: an upper bound that decreases with
    the number of samples.
    Source: Theis et al. 2016 (arXiv 1511.01844); Burda et al. 2016 for several samples.
    """
    require(draws >= 1, f"bits got draws={draws}; dequantisation needs at least one sample: set an integer from 1")
    each = [
        log_prob(
            flow,
            dequantise(values, rng.fork("draw", k), levels, low, high),
            cond,
            steps=steps,
            solver=solver,
            divergence=divergence,
        )
        for k in range(draws)
    ]
    log_p = torch.stack(each).logsumexp(0) - math.log(draws)
    return bits_per_dimension(log_p, math.prod(values.shape[1:]), levels, high - low)


def bits_per_dimension(log_p: Tensor, size: int, levels: int = 256, width: float = 2.0) -> Tensor:
    """Bits per dimension [B] from log densities in nats [B], for ``levels`` integer values scaled to a ``width``.

    bpd = -log p / (D ln 2) + log2(levels / width);  for 8-bit images in [-1, 1] the offset is 7.
    """
    return -log_p / (size * math.log(2)) + math.log2(levels / width)


def _signs(rng: Rng, like: Tensor) -> Tensor:
    return torch.where(rng.fill(like) < 0.5, -1.0, 1.0).to(like.dtype)


def _velocity(f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, bool]:
    """(x that requires a gradient, v, whether the graph must be retained)."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if keep and x.requires_grad else x.detach().requires_grad_()
        v = f(x, t)
        if not v.requires_grad:  # a constant field has no graph, and no divergence
            v = v + 0 * x
    return x, v, keep
