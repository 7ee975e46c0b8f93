"""Sources of the velocity in an objective of flow maps."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Guidance, Solver
from beeline.core.protocols.maps import VelocitySource
from beeline.core.ranges import NonNegative, Share, check_window, dataclass
from beeline.core.types import expand_time
from beeline.fields.flow import Flow
from beeline.objectives.guided import equal
from beeline.objectives.maps.jumps import Jumps
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.sampling.guidance.null import null_like
from beeline.solvers.runge_kutta import EULER


class SourceBase:
    """Base of sources of velocities, which give average velocities by a step of a solver."""

    @property
    def anywhere(self) -> bool:
        """Whether it gives velocities at states other than those of the batch."""
        return True

    def __call__(self, jumps: Jumps, x: Tensor, t: Tensor) -> Tensor:
        """The velocities [B,*S] at the states ``x`` and the times ``t``."""
        raise NotImplementedError

    def average(self, jumps: Jumps, m: Tensor, solver: Solver) -> Tensor:
        """The average velocities from the states of the batch to the times ``m``, by a step of a solver."""
        if solver == EULER:
            return self(jumps, jumps.x, jumps.t)
        x, t, m = jumps.x.double(), jumps.t.double(), m.double()  # the difference of two near states
        end, _ = solver.step(lambda y, r: self(jumps, y.to(jumps.x), r.to(jumps.t)).double(), x, t, m, None)
        length = m - t
        return ((end - x) / expand_time(torch.where(length == 0, 1.0, length), x)).to(jumps.x)


@dataclass(frozen=True)
class OfPair(SourceBase):
    """The slope of the path between source point and datum, whose mean is the velocity of the flow.

    v = d/dt x_t,  x1 - x0 on the straight path
    Its variance is that of flow matching.  It is defined at the states of the batch alone.
    Source: Geng et al. 2025, MeanFlow (arXiv 2505.13447).

    >>> OfPair().anywhere
    False
    """

    @property
    def anywhere(self) -> bool:
        return False

    def __call__(self, jumps: Jumps, x: Tensor, t: Tensor) -> Tensor:
        require(
            x is jumps.x,
            "OfPair was evaluated at a state that is not on the path of its pair; use OfTeacher(flow) or OwnDiagonal()",
        )
        assert jumps.batch.x0 is not None
        return jumps.path.point(jumps.batch.x0, jumps.batch.x1, t).v.detach()

    def average(self, jumps: Jumps, m: Tensor, solver: Solver) -> Tensor:
        return self(jumps, jumps.x, (jumps.t + m) / 2)  # of the pair's own path


@dataclass(frozen=True)
class OfTeacher(SourceBase):
    """The velocity of a trained flow, with its guidance; or that of a distribution whose flow is known.

    v = guidance(flow)(x, t, cond)
    Autoguidance is the guidance Guide(Weak(network), Extrapolate(2.0)).
    Source: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603).

    >>> OfTeacher(Flow(lambda x, t, cond=None: -x)).anywhere
    True
    """

    flow: Flow
    guidance: Guidance = field(default_factory=Plain)

    def __call__(self, jumps: Jumps, x: Tensor, t: Tensor) -> Tensor:
        with eval_mode(self.flow.field, self.guidance):
            v: Tensor = guidance_for_flow(self.guidance, self.flow)(self.flow.field, jumps.cond)(x, t)
        return v.to(x.dtype)


@dataclass(frozen=True)
class OwnDiagonal(SourceBase):
    """The velocity that the map has learned: its diagonal.

    v = sg u(x, t, t)
    Assumes another source for the diagonal itself, with a share of jumps on it.
    Source: Boffi, Albergo and Vanden-Eijnden 2025, "How to Build a Consistency Model" (arXiv 2505.18825).

    >>> OwnDiagonal().anywhere
    True
    """

    def __call__(self, jumps: Jumps, x: Tensor, t: Tensor) -> Tensor:
        with eval_mode(jumps.field):
            return jumps.map(x, t, t).detach()


@dataclass(frozen=True)
class GuidedTarget(SourceBase):
    """Guidance in the target, so that the map is guided without further evaluations.

    v~ = w v + k sg u(x, t, t | c) + (1 - w - k) sg u(x, t, t | null),  w = scale (1 - k),  inside the window of times;
    v where the condition is dropped.  At the minimum the diagonal is guided with that scale.
    With mixing = 1 - 1/scale it is v + (1 - 1/scale) sg [u(c) - u(null)], the form of improved MeanFlow.
    Assumes an objective with condition dropout.
    Source: Geng et al. 2025, MeanFlow (arXiv 2505.13447); improved MeanFlow (arXiv 2512.02012).

    >>> GuidedTarget(scale=2.0).anywhere
    False
    """

    source: VelocitySource = field(default_factory=OfPair)
    scale: NonNegative = 2.0  # of the learned guidance; 1 is none
    mixing: Share = 0.5  # k; 0 takes the velocity of the source alone as the conditional one
    window: tuple[float, float] = (0.0, 1.0)  # times with guidance
    null: Any = None  # the null condition; None is that of the network

    def __post_init__(self) -> None:
        check_window("GuidedTarget", self.window)

    @property
    def anywhere(self) -> bool:
        return self.source.anywhere

    def __call__(self, jumps: Jumps, x: Tensor, t: Tensor) -> Tensor:
        require(
            jumps.cond is not None,
            "GuidedTarget learns guidance towards a condition, and the data have none; use data with labels, or the "
            "source of velocities without it",
        )
        void = null_like(self.null, jumps.cond, jumps.field)
        v = self.source(jumps, x, t)
        with eval_mode(jumps.field):
            own, weak = (jumps.at(cond, x, t, t).detach() for cond in (jumps.cond, void))
        weight = self.scale * (1 - self.mixing)
        guided = weight * v + self.mixing * own + (1 - weight - self.mixing) * weak
        low, high = self.window
        inside = (t >= low) & (t <= high) & ~equal(jumps.cond, void)
        return torch.where(expand_time(inside, x), guided, v)
