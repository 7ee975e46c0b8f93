"""Guidance that omits its weak prediction for samples in which both predictions agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, Dynamics, expand_time, leaves, map_cond
from beeline.fields.flow import bind
from beeline.sampling.guidance.dependence import needs_evaluation
from beeline.sampling.guidance.guide import Guide, OfGuide
from beeline.sampling.guidance.predictions import Predictions
from beeline.solvers.process import FieldReadout


@dataclass(frozen=True)
class AdaptiveWeak(OfGuide):
    """Guidance that ends, for every sample, when both predictions point in nearly the same direction.

    v = rule(strong, weak) until cos(strong, weak) >= aligned, strong in all later evaluations of this sample
    A sample without guidance leaves the batch of the weak prediction, so that it takes one evaluation.  The count
    depends on the data: ``calls`` and ``Sampler.evaluations`` are upper bounds.  The comparison waits for the device
    in every evaluation in which some sample has guidance.  ``fit_skipping`` finds fixed times for all samples instead.
    Assumes solvers that are not parallel in time.
    Source: Castillo et al. 2023, "Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models"
    (arXiv 2312.12487), with velocities for noise predictions, which agree at t = 0 for any condition.

    >>> from beeline.sampling.guidance.guide import CFG
    >>> AdaptiveWeak(CFG(3.0, null=10)).calls(0.5)  # at most
    2
    """

    guidance: Guidance  # a Guide, such as CFG(scale)
    aligned: float = 0.991  # cosine; above 1 guidance never ends, -1 ends it after one evaluation

    def __post_init__(self) -> None:
        require(
            isinstance(self.guidance, Guide),
            f"AdaptiveWeak got {type(self.guidance).__name__}; it compares the two predictions of a rule: give a "
            "Guide, such as CFG(3.0)",
        )
        needs_evaluation(self.guide.reference, "AdaptiveWeak")

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            not is_map(field),
            "AdaptiveWeak got a flow map; its jumps differ in length, so that their directions do not compare: use the "
            "guidance inside without it",
        )
        rows = next((len(leaf) for _, leaf in leaves(cond) if leaf.ndim), None)
        guide, combine = self.guide, self.guide.rule.for_run()
        inner = field.field if isinstance(field, FieldReadout) else field
        weak_field, weak_cond = guide.reference(inner, cond)
        alone = bind(field, cond, repeat=True)
        parts: dict[bool, Any] = {}  # by whether guided: dynamics of these rows
        divided: list[Tensor] = []  # the rows with guidance and those without, from the first evaluation on

        def divide(active: Tensor, n: int) -> None:
            rest = torch.ones(n, dtype=torch.bool, device=active.device).index_fill(0, active, False).nonzero()[:, 0]
            taken = _rows(weak_cond, active)
            parts[True] = Predictions(field, _rows(cond, active), [lambda f, c: (weak_field, taken)], guide.together)
            parts[False] = bind(field, _rows(cond, rest))
            divided[:] = [active, rest]

        def f(x: Tensor, t: Tensor) -> Tensor:
            require(
                t.ndim == 1,
                f"AdaptiveWeak got times of shape {tuple(t.shape)}, one for every frame; its directions are those of "
                "whole samples: use the guidance inside without it",
            )
            require(
                rows in (None, len(x)) and (not divided or sum(map(len, divided)) == len(x)),
                f"AdaptiveWeak got {len(x)} states for a run of {rows}; it remembers which sample has guidance: use a "
                "solver that is not parallel in time, such as EULER",
            )
            if not divided:
                divide(torch.arange(len(x), device=x.device), len(x))
            inside = host_times(t)
            inside = (inside >= guide.window[0]) & (inside <= guide.window[1])
            active, rest = divided
            if not len(active) or not bool(inside.any()):
                return alone(x, t)
            first, second = parts[True](x[active], t[active])
            strong = torch.empty_like(x).index_copy(0, active, first)
            if len(rest):
                strong = strong.index_copy(0, rest, parts[False](x[rest], t[rest]))
            weak = strong.index_copy(0, active, second)
            v = combine(strong, weak, x, t)  # of all samples, for rules that remember those of earlier evaluations
            guided = guide.within(t) & torch.zeros_like(t, dtype=torch.bool).index_fill(0, active, True)
            going = ((_cosine(first, second) < self.aligned) | ~guide.within(t[active])).nonzero()[:, 0]
            if len(going) < len(active):
                divide(active[going], len(x))
            return torch.where(expand_time(guided, x), v, strong)

        return f

    def calls(self, t: float) -> int:
        return self.guide.calls(t)


def _rows(cond: Cond, rows: Tensor) -> Cond:
    """The condition of some samples."""
    return map_cond(lambda leaf: leaf[rows.to(leaf.device)], cond)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines [B] of the angles between samples."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.cosine_similarity(a.flatten(1).to(wide), b.flatten(1).to(wide), 1)
