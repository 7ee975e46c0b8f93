"""Guidance whose difference of predictions is taken at a predicted state half a step ahead."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Guidance, Reference
from beeline.core.ranges import NonNegative, check_window, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import bind
from beeline.sampling.guidance.dependence import Containing, RunSteps, needs_evaluation, needs_times
from beeline.sampling.guidance.guide import Unconditional
from beeline.sampling.guidance.predictions import Predictions
from beeline.solvers.process import FieldReadout


@dataclass(frozen=True)
class RectifiedCFGPlusPlus(Containing):
    """A conditional step with a guidance correction from the middle of the step (Rectified-CFG++).

    y = x + (h / 2) v(x, t, c);  v = v(x, t, c) + alpha(t) (v(y, t + h / 2, c) - weak(y, t + h / 2))
    alpha(t) = scale (1 - t)^power;  h is the length of the step
    It takes three evaluations.  With few steps it stays closer to the conditional flow than extrapolation with the
    scale 1 + alpha; with many steps both are the same.
    Assumes the solver EULER, and all samples in one step.  Evaluations of other solvers inside a step use its h.
    Source: Saini et al. 2025, "Rectified-CFG++ for Flow Based Models" (arXiv 2510.07631), whose code has a constant
    alpha, as power 0.

    >>> RectifiedCFGPlusPlus(2.0, window=(0.0, 0.6)).calls(0.5)
    3
    """

    scale: NonNegative = 3.0  # 0 is no guidance; 2.5 to 5 is usual
    power: NonNegative = 0.0  # above 0, alpha falls to 0 at the data
    reference: Reference = field(default_factory=Unconditional)
    window: tuple[float, float] = (0.0, 1.0)  # times with guidance, both ends included
    together: bool = True  # evaluate both predictions of the correction in one batch

    def __post_init__(self) -> None:
        check_window("RectifiedCFGPlusPlus", self.window)
        needs_evaluation(self.reference, "RectifiedCFGPlusPlus")

    def for_times(self, times: Tensor) -> Guidance:
        """The guidance for a run over ``times`` [steps+1]."""
        return _OfSteps(super().for_times(times), RunSteps(times, "RectifiedCFGPlusPlus"))

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        needs_times("RectifiedCFGPlusPlus")

    def calls(self, t: float) -> int:
        return 3 if self.window[0] <= t <= self.window[1] else 1


class _OfSteps:
    """The guidance for the steps of one run."""

    def __init__(self, guidance: RectifiedCFGPlusPlus, steps: RunSteps):
        self.guidance, self.steps = guidance, steps

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            not is_map(field),
            "RectifiedCFGPlusPlus got a flow map, whose jumps have no state in their middle: use CFG(scale)",
        )
        if isinstance(field, FieldReadout):  # an output at the end of the run, which is no velocity
            return bind(field, cond, repeat=True)
        own = self.guidance
        predictions = Predictions(field, cond, [own.reference], own.together)
        low, high = own.window

        def f(x: Tensor, t: Tensor) -> Tensor:
            strong = predictions.strong(x, t)
            times = host_times(t)
            if not bool(((times >= low) & (times <= high)).any()):
                return strong
            start, end = self.steps.around(t)
            middle = (t + (end - start) / 2).clamp(0, 1)
            y = x + expand_time(middle - t, x).to(x) * strong
            ahead, weak = predictions(y, middle)
            alpha = torch.where((t >= low) & (t <= high), own.scale * (1 - t) ** own.power, 0)
            return strong + expand_time(alpha, x).to(x) * (ahead - weak)

        return f

    def calls(self, t: float) -> int:
        return self.guidance.calls(t)
