"""Fit of the evaluations of a guided sampler in which the weak prediction is estimated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.types import Cond, Dynamics
from beeline.fields.flow import Flow
from beeline.sampling.guidance.dependence import Containing
from beeline.sampling.guidance.guide import Guide
from beeline.sampling.guidance.skipping import SkippedWeak, one_time
from beeline.sampling.sampler import Sampler

RIDGE = 1e-10  # of least squares, relative to the mean square of the predictions
NONE = (1.0, 0.0, 0.0)  # the weights that omit guidance


def fit_skipping(
    flow: Flow, sampler: Sampler, x0: Tensor, cond: Cond = None, *, aligned: float = 0.991, every: int = 2
) -> Sampler:
    """The sampler with guidance that computes its weak prediction in some evaluations only.

    A run from ``x0`` [B,*S] with full guidance gives the cosine of both velocities, the mean over samples; guidance is
    omitted after the first time at which it is at least ``aligned``.  Before that the weak prediction is computed at
    every ``every``-th time of evaluation, and estimated at the others, with weights by least squares:

    min over a, b, c of E|a strong + b strong_j + c weak_j - weak|^2,  j the last evaluation in which both are computed

    ``aligned`` above 1 never omits guidance, ``every=1`` estimates nothing.  ``cond`` has one row per sample.  Raises
    ValueError for a sampler whose guidance is no Guide.
    Source: Castillo et al. 2023, "Adaptive Guidance" (arXiv 2312.12487), with velocities for noise predictions, which
    agree at t = 0 for any condition.

    >>> from beeline.sampling.guidance.guide import CFG
    >>> flow = Flow(lambda x, t, cond: cond[:, None] - x)
    >>> guided = Sampler(4, guidance=CFG(2.0, 0))
    >>> found = fit_skipping(flow, guided, torch.zeros(3, 1), torch.arange(3) + 1.0, aligned=2.0)
    >>> guided.evaluations, found.evaluations
    (16, 12)
    """
    require(
        isinstance(sampler.guidance, Guide) and every >= 1,
        f"fit_skipping got the guidance {type(sampler.guidance).__name__} and every={every}; it looks at both "
        "predictions of guidance in every n-th evaluation: give a sampler with CFG(scale), and every of at least 1",
    )
    assert isinstance(sampler.guidance, Guide)
    seen: dict[float, list[tuple[Tensor, Tensor]]] = {}
    replace(sampler, guidance=_Recording(sampler.guidance, seen))(flow, x0, cond)
    plan: dict[float, tuple[float, float, float]] = {}
    last: tuple[Tensor, Tensor] | None = None
    stopped = False
    for k, (time, pairs) in enumerate(seen.items()):
        if stopped:
            plan[time] = NONE
        elif last is None or k % every == 0:
            last = pairs[-1]
            stopped = cosine(*last) >= aligned
        else:
            rows = [(strong, *last) for strong, _ in pairs]
            plan[time] = least_squares(rows, [weak for _, weak in pairs])
    return replace(sampler, guidance=SkippedWeak(sampler.guidance, tuple(plan), tuple(plan.values()) or (NONE,)))


@dataclass(frozen=True)
class _Recording(Containing):
    """Guidance that stores both predictions of every evaluation by its time."""

    guide: Guide
    seen: dict[float, list[tuple[Tensor, Tensor]]]

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        alone, both = self.guide.predictions(field, cond)
        combine = self.guide.rule.for_run()

        def f(x: Tensor, t: Tensor) -> Tensor:
            time = one_time(t, "fit_skipping")
            if not self.guide.window[0] <= time <= self.guide.window[1]:
                return alone(x, t)
            strong, weak = both(x, t)
            self.seen.setdefault(time, []).append((strong, weak))
            return combine(strong, weak, x, t)

        return f

    def calls(self, t: float) -> int:
        return self.guide.calls(t)


def cosine(a: Tensor, b: Tensor) -> float:
    """The mean over samples of the cosine of two tensors [B,*S]."""
    return float(torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1), dim=1).mean())


def least_squares(rows: list[tuple[Tensor, Tensor, Tensor]], wanted: list[Tensor]) -> tuple[float, float, float]:
    """The weights with which three parts sum to what is wanted, by ridge regression in float64."""
    columns = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in zip(*rows, strict=True)], 1)
    columns, target = columns.double(), torch.cat([part.flatten() for part in wanted]).double()
    square = columns.T @ columns
    ridge = RIDGE * square.diagonal().mean() * torch.eye(3, dtype=square.dtype, device=square.device)
    a, b, c = torch.linalg.solve(square + ridge, columns.T @ target).tolist()
    return a, b, c
