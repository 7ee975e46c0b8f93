"""Objectives of the literature as settings of FlowMapMatching: methods whose jumps have one fixed end."""

from __future__ import annotations

from dataclasses import field

from beeline.core.protocols.maps import Identity, Spans
from beeline.core.ranges import Share, dataclass
from beeline.objectives.losses.basic import Distance, Huber
from beeline.objectives.losses.residuals import NormalisedTangent
from beeline.objectives.maps.identities import Lagrangian, Stepped
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.spans import FromNoise, ToEnd
from beeline.objectives.maps.splits import NoiseRatio
from beeline.times.samplers import LogitNormal


@dataclass(frozen=True)
class Consistency(FlowMapMatching):
    """Consistency models: two near states of a trajectory have the same end.

    the identity Stepped with s = 1 and times that approach each other in stages (NoiseRatio), and a Huber distance
    In units of the step it is the consistency loss |f(x_t, t) - sg f(x_m, m)| / (m - t), f(x, t) = x + (1 - t) u.
    Sample in one step, or in more with ConsistencyStep.
    Source: Song et al. 2023, "Consistency Models" (arXiv 2303.01469); Geng et al. 2024, "Consistency Models Made Easy"
    (arXiv 2406.14548).

    >>> Consistency().spans
    ToEnd(times=LogitNormal(mean=0.4, std=1.6), most=1.0, diagonal=0.0, backward=0.0)
    """

    identity: Identity = field(default_factory=lambda: Stepped(NoiseRatio()))
    spans: Spans = field(default_factory=lambda: ToEnd(LogitNormal(0.4, 1.6)))
    distance: Distance = field(default_factory=lambda: Huber(0.01))


@dataclass(frozen=True)
class ContinuousConsistency(FlowMapMatching):
    """Continuous-time consistency models: the consistency loss for a step of zero, with normalised tangents.

    the identity Eulerian with s = 1:  |F - sg(F + g / (|g| + c))|^2,  g = v - F + r (1 - t) dF/dt,  F = u(x, t, 1)
    It is the loss on the straight path of a model on the TrigFlow path (see fields.trigflow).  The learned weight of
    the paper is Uncertain(ContinuousConsistency()).
    Source: Lu and Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models" (arXiv
    2410.11081).

    >>> ContinuousConsistency().spans.times
    LogitNormal(mean=0.31, std=1.4)
    """

    spans: Spans = field(default_factory=lambda: ToEnd(LogitNormal(0.31, 1.4)))
    distance: Distance = field(default_factory=NormalisedTangent)
    warmup: Share = 0.1


@dataclass(frozen=True)
class Bootstrapping(FlowMapMatching):
    """BOOT: the trajectory of a noise is extended by the velocity at its end, without data.

    the identity Lagrangian with t = 0:  d/ds X(z, 0, s) = v(X, s),  z the source point
    The states are the map's own, so that the data do not enter; the paper takes steps of finite length.
    Assumes velocities everywhere: velocity=OfTeacher(flow), as its distillation sets it.
    Source: Gu et al. 2023, "BOOT: Data-free Distillation of Denoising Diffusion Models with Bootstrapping" (arXiv
    2306.05544).

    >>> Bootstrapping().spans.diagonal
    0.25
    """

    identity: Identity = field(default_factory=Lagrangian)
    spans: Spans = field(default_factory=FromNoise)
