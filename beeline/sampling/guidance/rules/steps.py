"""Guidance rules whose scale depends on the step of the run."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Combination, Rule
from beeline.core.ranges import Share, dataclass
from beeline.core.types import expand_time
from beeline.fields.flow import Flow
from beeline.paths.affine import Linear
from beeline.sampling.guidance.dependence import FlowDependent, RunSteps, TimesDependent, needs_times


@dataclass(frozen=True)
class CFGPlusPlus(FlowDependent, TimesDependent):
    """Steps to a guided data estimate with the noise estimate of the weak prediction (CFG++).

    x_b = b D + (1 - b) E,  D = D_weak + scale (D_strong - D_weak),  E = E_weak,  in the step from a to b
    Here D = x + (1 - t) v is the data and E = x - t v the noise that a velocity predicts.  The step is that of
    extrapolation with the scale w = scale b (1 - a) / (b - a).  In falling times, from b to a, w is the same, so that a
    run is inverted; there it is x_a = a D_weak + (1 - a) E, with the guided noise E.
    w grows with the number of steps: for a fixed scale the limit of many steps is no guided flow, and samples collapse
    to a point.  Reduce the scale in proportion when the number of steps rises; above about 64 steps use Extrapolate.
    Assumes the straight path and the solver EULER.  Evaluations of other solvers inside a step get the w of that step.
    Source: Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models" (arXiv
    2406.08070), for the straight path.

    >>> rule = CFGPlusPlus(0.6).for_times(torch.tensor([0.0, 0.5, 1.0])).for_run()
    >>> rule(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0.5]))
    tensor([[0.6000]])
    """

    scale: Share = 0.6  # of the data estimate; 0 is the weak prediction, 0.2 to 0.8 is usual

    def for_flow(self, flow: Flow) -> CFGPlusPlus:
        """The rule itself; raises ValueError for another path than the straight one."""
        require(
            isinstance(flow.path, Linear),
            f"CFGPlusPlus got a flow on {type(flow.path).__name__}; its data and noise estimates are those of the "
            "straight path: convert the flow with convert_flow(flow, Linear())",
        )
        return self

    def for_times(self, times: Tensor) -> Rule:
        """The rule for a run over ``times`` [steps+1]."""
        return _OfSteps(self.scale, RunSteps(times, "CFGPlusPlus"))

    def for_run(self) -> Combination:
        needs_times("CFGPlusPlus")


class _OfSteps:
    """CFG++ for the steps of one run."""

    def __init__(self, scale: float, steps: RunSteps):
        self.scale, self.steps = scale, steps

    def for_run(self) -> Combination:
        def rule(strong: Tensor, weak: Tensor, x: Tensor, t: Tensor) -> Tensor:
            a, b = (edge(*self.steps.around(t)) for edge in (torch.minimum, torch.maximum))
            w = self.scale * b * (1 - a) / (b - a)
            return weak + expand_time(w, x).to(x) * (strong - weak)

        return rule
