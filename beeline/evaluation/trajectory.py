"""Straightness, transport cost, counted evaluations and likelihood of a flow."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declared, in_place_of, is_map, traits_of
from beeline.core.errors import require
from beeline.core.protocols.flows import Divergence, Solver
from beeline.core.protocols.steering import Run
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, expand_time, leaves, map_cond
from beeline.density.likelihood import Exact, Hutchinson, log_prob
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import Guide, Weak, guidance_for_flow
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.controller import complete_controller
from beeline.solvers.process import process_of, velocity_on
from beeline.solvers.runge_kutta import HEUN


@dataclass(frozen=True, eq=False)
class Straightness:
    """Straightness and transport cost of the trajectories of a flow, one value per sample.

    S = int_0^1 E|(Z1 - Z0) - v(Z_t, t)|^2 dt, zero if and only if every trajectory is straight at constant speed;
    relative S / E|Z1 - Z0|^2; transport cost E|Z1 - Z0|^2.  On a manifold S = int E|v|^2 dt - E d(Z0, Z1)^2 with the
    geodesic distance d, zero on geodesics at constant speed, and the cost is E d(Z0, Z1)^2.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003).
    """

    bend: Tensor  # [B], the integral of one trajectory, in squared data units summed over coordinates
    length: Tensor  # [B], the squared distance from Z0 to Z1
    evaluations: int  # field evaluations per sample for the measurement

    @property
    def value(self) -> float:
        """S."""
        return float(self.bend.mean())

    @property
    def relative(self) -> float:
        """S / E|Z1 - Z0|^2."""
        return self.value / self.transport if self.transport > 0 else 0.0

    @property
    def transport(self) -> float:
        """E|Z1 - Z0|^2."""
        return float(self.length.mean())


@torch.no_grad()
def straightness(flow: Flow, x0: Tensor, sampler: Sampler, cond: Cond = None, batch_size: int = 256) -> Straightness:
    """Straightness and transport cost of the trajectories that ``sampler`` solves from ``x0`` [B,*S].

    The integral uses the trapezoidal rule at the times of the sampler, so give an accurate one, such as 50 steps of
    HEUN.  Velocities are those of the guided field.
    """
    bends, lengths, count = [], [], 0
    space = process_of(flow).space
    for rows in torch.split(torch.arange(len(x0)), batch_size):
        part, c = x0[rows], rows_of(cond, rows)
        f = guidance_for_flow(sampler.guidance, flow, sampler.times())(flow.field, c)
        for controller in sampler.controllers:
            f = complete_controller(controller).for_run(Run(flow, c, sampler.times())).steer(f, flow)
        sums = _Sums(f if space is None else velocity_on(space, f))
        end = sampler.for_rows(int(rows[0]), int(rows[-1]) + 1)(flow, part, c, watch=sums)
        along = between(space, part, end)
        length = along.square().sum(1)
        # the weights sum to one, so this is the trapezoidal rule for |(Z1 - Z0) - v|^2
        flat = length - 2 * (along * sums.velocity.flatten(1)).sum(1) + sums.energy
        bend = flat if space is None else sums.energy - length
        bends.append(bend.clamp(min=0))
        lengths.append(length)
        count = sampler.steps + 1
    return Straightness(torch.cat(bends).cpu(), torch.cat(lengths).cpu(), count + (sampler.evaluations or 0))


def between(space: Any, x0: Tensor, x1: Tensor) -> Tensor:
    """x1 - x0 as [B,D] in float64, or on a manifold the initial velocity of the geodesic."""
    a, b = x0.double(), x1.double()
    return (b - a if space is None else space.log(a, b)).flatten(1)


class _Sums:
    """Accumulates int v dt and int |v|^2 dt by the trapezoidal rule, in float64."""

    def __init__(self, f: Dynamics) -> None:
        self.f = f
        self.last: tuple[Tensor, Tensor] | None = None  # previous time and velocity

    def __call__(self, x: Tensor, t: Tensor) -> None:
        v = self.f(x, t).double()
        square = v.square().flatten(1).sum(1)
        if self.last is None:
            self.velocity, self.energy = torch.zeros_like(v), torch.zeros_like(square)
        else:
            before, old = self.last
            half = (t - before).double() / 2
            self.velocity += expand_time(half, v) * (v + old)
            self.energy += half * (square + old.square().flatten(1).sum(1))
        self.last = (t.clone(), v)


def transport_cost(flow: Flow, x0: Tensor, sampler: Sampler, cond: Cond = None, batch_size: int = 256) -> Tensor:
    """Squared distance [B] between each source point and its sample; the mean is the transport cost."""
    made = draw(flow, sampler, x0, cond, batch_size)
    return between(process_of(flow).space, x0, made).square().sum(1).cpu()


def draw(flow: Flow, sampler: Sampler, x0: Tensor, cond: Cond = None, batch_size: int = 256) -> Tensor:
    """Samples from source points, in batches of ``batch_size``."""
    for name, leaf in leaves(cond):
        require(
            len(leaf) == len(x0),
            f"the condition {name or 'given'} has {len(leaf)} rows for {len(x0)} samples; give one row per sample",
        )
    parts = []
    for rows in torch.split(torch.arange(len(x0)), batch_size):
        parts.append(sampler.for_rows(int(rows[0]), int(rows[-1]) + 1)(flow, x0[rows], rows_of(cond, rows)))
    return torch.cat(parts)


def rows_of(cond: Cond, rows: Tensor) -> Cond:
    """The rows of every leaf of a condition."""
    return map_cond(lambda leaf: leaf[rows.to(leaf.device)], cond)


class Counter:
    """Counts calls of a field and their rows; rows / samples is the number of evaluations per sample."""

    def __init__(self) -> None:
        self.rows = 0
        self.calls = 0

    def add(self, x: Tensor) -> None:
        self.rows += len(x)
        self.calls += 1


@contextlib.contextmanager
def counted(flow: Flow, sampler: Sampler) -> Iterator[tuple[Flow, Sampler, Counter]]:
    """The flow and sampler with all evaluations of their fields counted, including a weak field of guidance.

    Modules are counted by a forward hook, so that guidance can still access their parts; functions are wrapped.
    """
    counter = Counter()
    guidance = sampler.guidance
    reference = guidance.reference if isinstance(guidance, Guide) else None
    weak = reference.field if isinstance(reference, Weak) else None
    hooks = [
        net.register_forward_pre_hook(
            lambda _, args, kwargs: counter.add(args[0] if args else kwargs["x"]), with_kwargs=True
        )
        for net in {id(f): f for f in (flow.field, weak) if isinstance(f, nn.Module)}.values()
    ]
    if not isinstance(flow.field, nn.Module):
        flow = replace(flow, field=_wrapped(flow.field, counter))
    if isinstance(guidance, Guide) and weak is not None and not isinstance(weak, nn.Module):
        sampler = replace(sampler, guidance=replace(guidance, reference=Weak(_wrapped(weak, counter))))
    try:
        yield flow, sampler, counter
    finally:
        for hook in hooks:
            hook.remove()


def _wrapped(field: Callable[..., Tensor], counter: Counter) -> Callable[..., Tensor]:
    if is_map(field):

        def jump(x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
            counter.add(x)
            return field(x, t, cond, s)

        return Declared(jump, True, traits_of(field))

    def velocity(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        counter.add(x)
        return field(x, t) if cond is None else field(x, t, cond)

    return in_place_of(field, velocity)


@dataclass(frozen=True)
class Likelihood:
    """Settings of the log-likelihood of data.

    log p(x1) by integration from t = 1 to 0; exact divergence up to ``exact`` coordinates, else Hutchinson's estimate
    Assumes a source with a density.  Computed for the field without guidance.
    Source: Chen et al. 2018 (arXiv 1806.07366); Grathwohl et al. 2019 (arXiv 1810.01367).

    >>> Likelihood().divergence(2, Rng(0))
    Exact()
    """

    rows: int = 64  # number of data, chosen at random
    steps: int = 40
    solver: Solver = HEUN
    exact: int = 16  # largest number of coordinates with an exact divergence
    probes: int = 2  # of Hutchinson's estimate
    batch: int = 64

    def divergence(self, size: int, rng: Rng) -> Divergence:
        return Exact() if size <= self.exact else Hutchinson(rng, self.probes)

    def __call__(self, flow: Flow, x1: Tensor, rng: Rng, cond: Cond = None) -> Tensor:
        """log p(x1) in nats, [B], without gradients."""
        require(len(x1) > 0, "x1 is empty, so it has no likelihood; give at least one datum")
        size, parts = math.prod(x1.shape[1:]), []
        with torch.no_grad():
            for k, rows in enumerate(torch.split(torch.arange(len(x1)), self.batch)):
                measure = self.divergence(size, rng.fork(k))
                c = rows_of(cond, rows)
                parts.append(log_prob(flow, x1[rows], c, steps=self.steps, solver=self.solver, divergence=measure))
        return torch.cat(parts).double().cpu()
