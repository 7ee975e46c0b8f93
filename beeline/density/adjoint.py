"""Gradients through ``integrate``, with different memory costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Solver
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics
from beeline.solvers.integrate import integrate

_AccumulateGrad: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]  # the node of a leaf tensor


@dataclass(frozen=True)
class Stored:
    """Backpropagation through all steps: fastest, with memory proportional to the number of steps.

    the exact gradient of the discrete solution

    >>> from beeline.solvers.runge_kutta import EULER
    >>> Stored()(lambda x, t: x, torch.ones(1, 1), torch.linspace(0, 1, 3), EULER)
    tensor([[2.2500]])
    """

    def __call__(self, f: Dynamics, x: Tensor, times: Tensor, solver: Solver) -> Tensor:
        return integrate(f, x, times, solver)


@dataclass(frozen=True)
class Checkpointed:
    """Gradient checkpointing: stores the states between segments and recomputes each segment in the backward pass.

    the exact gradient of the discrete solution, for one more solution; memory of the graph of one segment
    Assumes a one-step solver (a multistep one restarts in every segment) and a deterministic field.
    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).

    >>> from beeline.solvers.runge_kutta import EULER
    >>> Checkpointed()(lambda x, t: x, torch.ones(1, 1), torch.linspace(0, 1, 3), EULER)
    tensor([[2.2500]])
    """

    segments: int | None = None  # None: about the square root of the number of steps

    def __post_init__(self) -> None:
        require(
            self.segments is None or self.segments >= 1,
            f"Checkpointed got segments={self.segments}; there must be at least one: set an integer from 1, or None "
            "for about the square root of the number of steps",
        )

    def __call__(self, f: Dynamics, x: Tensor, times: Tensor, solver: Solver) -> Tensor:
        steps = len(times) - 1
        each = math.ceil(steps / min(steps, self.segments or max(1, round(math.sqrt(steps)))))
        parameters = graph_leaves(f, x, times[:1])
        for start in range(0, steps, each):
            part = times[start : start + each + 1]
            x = _RecomputedSegment.apply(lambda y, part=part: integrate(f, y, part, solver), x, *parameters)
        return x


@dataclass(frozen=True)
class Adjoint:
    """The adjoint method: integrates the adjoint equation backwards with the state, in constant memory.

    da/dt = -a^T df/dx,  dg/dt = -a^T df/dparameters, from the end to the start
    Assumes a smooth field.  It approximates the gradient of the exact flow to the accuracy of the solver; this is not
    the gradient of the discrete solution.
    Source: Chen et al. 2018, "Neural Ordinary Differential Equations" (arXiv 1806.07366).

    >>> from beeline.solvers.runge_kutta import EULER
    >>> Adjoint()(lambda x, t: x, torch.ones(1, 1), torch.linspace(0, 1, 3), EULER)
    tensor([[2.2500]])
    """

    def __call__(self, f: Dynamics, x: Tensor, times: Tensor, solver: Solver) -> Tensor:
        out: Tensor = _AdjointGradient.apply(f, times, solver, x, *graph_leaves(f, x, times[:1]))
        return out


def graph_leaves(f: Dynamics, x: Tensor, t: Tensor) -> list[Tensor]:
    """The leaf tensors with requires_grad on which the field depends, except the state, found by one evaluation."""
    with torch.enable_grad():
        v = f(x.detach(), t.reshape(1).to(x).repeat(len(x)) if t.numel() == 1 else t[0].to(x))
    found: dict[int, Tensor] = {}
    seen, todo = set(), [v.grad_fn]
    while todo:
        node: Any = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, _AccumulateGrad):
            found[id(node.variable)] = node.variable
        todo += [parent for parent, _ in node.next_functions]
    return [leaf for leaf in found.values() if leaf is not x]


class _RecomputedSegment(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x, *parameters)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        x, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            got = torch.autograd.grad(ctx.run(x), [x, *parameters], slopes[0], allow_unused=True)
        return (None, *got)


class _AdjointGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Dynamics, times: Tensor, solver: Solver, x: Tensor, *parameters: Tensor) -> Tensor:
        with torch.no_grad():
            end = integrate(f, x, times, solver)
        ctx.f, ctx.times, ctx.solver = f, times, solver
        ctx.save_for_backward(end, *parameters)
        return end

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        end, *parameters = ctx.saved_tensors
        sizes = [end.numel(), end.numel(), *(p.numel() for p in parameters)]

        def both(state: Tensor, t: Tensor) -> Tensor:
            x, a = (part.reshape(end.shape) for part in state[0].split(sizes)[:2])
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                v = ctx.f(x, t.repeat(len(end)))
                got = torch.autograd.grad(v, [x, *parameters], -a, allow_unused=True, materialize_grads=True)
            return torch.cat([v.detach().flatten(), *(g.flatten().to(v.dtype) for g in got)])[None]

        start = torch.cat([end.flatten(), slopes[0].flatten(), *(end.new_zeros(p.numel()) for p in parameters)])
        with torch.no_grad():
            _, a, *got = integrate(both, start[None], ctx.times.flip(0), ctx.solver)[0].split(sizes)
        shaped = [g.reshape(p.shape).to(p.dtype) for g, p in zip(got, parameters, strict=True)]
        return (None, None, None, a.reshape(end.shape), *shaped)
