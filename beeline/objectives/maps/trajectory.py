"""Consistency of trajectories at the data end, beside the regression of a flow map."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from beeline.core.declared import as_map, unwrapped
from beeline.core.modes import eval_mode
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, expand_time
from beeline.objectives.alignment import with_term
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.maps.identities import Stepped
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.spans import Ordered
from beeline.objectives.maps.splits import Between
from beeline.objectives.matching import ObjectiveWrapper
from beeline.solvers.runge_kutta import HEUN


@dataclass(frozen=True)
class TrajectoryConsistency(ObjectiveWrapper):
    """Consistency trajectory models: both ends of a comparison are also compared after a jump to the data.

    loss + strength distance(G(X), sg G(X*)),  X = x + (s - t) u(x, t, s),  X* = x + (s - t) target,
    G(X) = X + (1 - s) u(X, s, 1) with frozen weights, through which the gradient passes
    ``objective`` has the output (a solver step, then a jump of the map) and, on its diagonal, the velocity.  With
    distance=Perceptual(encoder) the ends are compared by features, such as those of the teacher.
    Assumes an objective FlowMapMatching.  Costs two more evaluations.
    Source: Kim et al. 2023, "Consistency Trajectory Models" (arXiv 2310.02279); with the velocity: Wu et al. 2025,
    TraFlow (arXiv 2502.16972); features of the teacher: Saito et al. 2024, SoundCTM (arXiv 2405.18503).

    >>> net = as_map(lambda x, t, cond=None, s=None: -x)
    >>> TrajectoryConsistency()(net, Batch(torch.zeros(4, 2)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    objective: FlowMapMatching = field(
        default_factory=lambda: FlowMapMatching(identity=Stepped(Between(0.1, 1.0), HEUN), spans=Ordered(diagonal=0.25))
    )
    strength: NonNegative = 1.0
    distance: Distance = squared  # of the data ends

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        made = self.objective.examples(field, batch, rng)
        jumps = replace(made.jumps, field=frozen(field))
        length, one = expand_time(jumps.s - jumps.t, jumps.x), torch.ones_like(jumps.s)

        def end(u: Tensor) -> Tensor:
            x = jumps.x + length * u
            return x + expand_time(1 - jumps.s, x) * jumps.map(x, jumps.s, one)

        with eval_mode(field):
            wanted = end(made.target.to(made.u))
        with eval_mode(field, grad=True):
            found = end(made.u)
        return with_term(self.objective.compare(made), self.distance(found, wanted).mean(), self.strength, "data end")


def frozen(field: Any) -> Any:
    """A flow map whose weights get no gradient, through which that of its inputs passes."""
    net = unwrapped(field)
    if not isinstance(net, nn.Module):
        return field
    held = {name: part.detach() for name, part in net.named_parameters()}

    def call(x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        u: Tensor = functional_call(net, held, (x, t, cond), {"s": s})
        return u

    return as_map(call)
