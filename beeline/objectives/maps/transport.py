"""Marginal-data transport distillation: a one-time student by an identity, and by its own samples."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Guidance, TimeSampler
from beeline.core.protocols.objectives import Derivative, ObjectiveSpec
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, expand_time
from beeline.couplings.basic import Independent
from beeline.fields.flow import Flow, bind, evaluate_field
from beeline.objectives.alignment import with_term
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.maps.derivatives import ForwardMode
from beeline.objectives.matching import FlowMatching, ObjectiveBase
from beeline.paths.affine import Linear
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.times.samplers import LogitNormal


@dataclass(frozen=True)
class MarginalTransport(ObjectiveBase):
    """Marginal-data transport distillation: velocity matching and velocity distillation of a student with one time.

    U(x, t) is the average velocity from t to the data:  R(x, t) = v_T + (1 - t) D,  D = dU/dt along (v_T, 1)
    velocity matching       |U(x_t, t) - sg R(x_t, t)|^2 at states of the path
    velocity distillation   |U(z, 0) - sg(U(z, 0) - G)|^2,  G = (U - R)(y_t, t) at noised samples y = z + U(z, 0)
    The second moves samples towards the teacher's end and away from the student's own.  With ``tangent`` > 0 D is
    divided by |D| + tangent, which is biased.
    Assumes the straight path.
    Source: Zhang et al. 2025, MDT-dist (arXiv 2509.04406).

    >>> objective = MarginalTransport(Flow(lambda x, t, cond=None: -x))
    >>> objective(lambda x, t, cond=None: -x, Batch(torch.zeros(4, 2)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    teacher: Flow
    strength: NonNegative = 1.0  # of velocity distillation
    times: TimeSampler = field(default_factory=lambda: LogitNormal(-1.0, 1.0))
    tangent: NonNegative = 0.0  # normalisation of the derivative; 0.1 in the paper, 0 for none
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns with its flow
    derivative: Derivative = field(default_factory=ForwardMode)
    distance: Distance = squared

    def __post_init__(self) -> None:
        require(
            isinstance(self.teacher.path, Linear),
            f"MarginalTransport got a teacher on {self.teacher.path}; its student jumps along straight paths: convert "
            "the teacher with convert_flow(flow, Linear())",
        )

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, path=self.teacher.path, baselines=False)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            not is_map(field),
            f"MarginalTransport got the flow map {type(field).__name__}; its student has one time: give a network with "
            "span=False, or use MeanFlow",
        )
        plain = FlowMatching(coupling=Independent(self.teacher.source), distance=self.distance)
        batch = plain.pairs(batch, rng, field)
        assert batch.x0 is not None
        t = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        x = plain.path.point(batch.x0, batch.x1, t).x
        loss = plain.reduce(evaluate_field(field, x, t, batch.cond), self.target(field, x, t, batch.cond), t, batch)
        if not self.strength:
            return loss
        z, noise = (self.teacher.source.sample(batch.x1, rng.fork(name)) for name in ("samples", "noise"))
        u = evaluate_field(field, z, torch.zeros_like(t), batch.cond)
        y = plain.path.point(noise, z + u.detach(), t).x
        with eval_mode(field):
            wrong = evaluate_field(field, y, t, batch.cond) - self.target(field, y, t, batch.cond)
        moved = self.distance(u, (u - wrong).detach()).mean()
        return with_term(loss, moved, self.strength, "velocity distillation")

    def target(self, field: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """R(x, t) [B,*S], without gradient."""
        with eval_mode(self.teacher.field, self.guidance, field):
            v = guidance_for_flow(self.guidance, self.teacher)(self.teacher.field, cond)(x, t).to(x)
            slope = self.derivative(bind(field, cond), (x, t), (v, torch.ones_like(t)))[1]
            if self.tangent:
                size = slope.flatten(1).square().mean(1).sqrt() + self.tangent
                slope = slope / expand_time(size, slope)
            return v + expand_time(1 - t, x) * slope
