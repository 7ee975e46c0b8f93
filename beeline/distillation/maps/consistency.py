"""Distillations of the literature to consistency functions, whose maps end at the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from torch import nn

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.ranges import Inside, NonNegative, Share, dataclass
from beeline.distillation.maps.flow_maps import FlowMapDistillation, OneJump
from beeline.distillation.students import copied
from beeline.fields.flow import Flow
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.maps import consistency
from beeline.objectives.maps.identities import Stepped, Truncated
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.spans import Ordered, ToEnd
from beeline.objectives.maps.splits import Between, Falling
from beeline.objectives.maps.trajectory import TrajectoryConsistency
from beeline.objectives.maps.velocities import OfPair
from beeline.sampling.sampler import Sampler
from beeline.solvers.consistency import ConsistencyStep
from beeline.solvers.runge_kutta import HEUN
from beeline.times.samplers import Uniform


class ToData(FlowMapDistillation):
    """Base of methods whose map ends at the data: several steps are jumps to the data with new noise in between."""

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        path: Any = teacher.path
        flow, sampler = super().student(teacher, networks)
        return flow, replace(sampler, solver=ConsistencyStep(path=path))


@dataclass(frozen=True)
class Consistency(ToData):
    """Consistency distillation: two near states of a trajectory of the teacher have the same end.

    the objective Consistency with a step of the teacher by Heun's method;  sampled with ConsistencyStep
    Source: Song et al. 2023, "Consistency Models" (arXiv 2303.01469).

    >>> Consistency().for_evaluations(2).evaluations
    2
    """

    matching: FlowMapMatching = field(
        default_factory=lambda: consistency.Consistency(
            identity=Stepped(Falling(0.2, 0.02), HEUN), spans=ToEnd(Uniform())
        )
    )


@dataclass(frozen=True)
class ContinuousConsistency(ToData):
    """Continuous-time consistency distillation (sCD).

    the objective ContinuousConsistency with the velocity of the teacher;  sampled with ConsistencyStep
    Source: Lu and Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models" (arXiv
    2410.11081).

    >>> ContinuousConsistency().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=consistency.ContinuousConsistency)


@dataclass(frozen=True)
class TruncatedConsistency(OneJump):
    """Truncated consistency training, second stage: a consistency function is trained again for early times alone.

    the objective Consistency with the identity Truncated and starts before ``seam``;  sampled in one step
    Assumes that the flow is the student of Consistency or ContinuousConsistency, which is the boundary at the seam.
    Velocities are those of the data.
    Source: Lee et al. 2024, "Truncated Consistency Models" (arXiv 2410.14895).

    >>> TruncatedConsistency().seam
    0.5
    """

    matching: FlowMapMatching = field(
        default_factory=lambda: consistency.Consistency(identity=Stepped(Falling(0.1, 0.01)), velocity=OfPair())
    )
    seam: Inside = 0.5  # time from which the first stage is kept
    boundary: Share = 0.25  # share of jumps that are divided at the seam

    def objective(self, teacher: Flow) -> Any:
        require(
            is_map(teacher.field),
            f"TruncatedConsistency got a flow with the velocity field {type(teacher.field).__name__}; it is the second "
            "stage of a consistency function: first run 'beeline distill BUNDLE Consistency', and give its student",
        )
        require(
            isinstance(self.matching.identity, Stepped),
            f"TruncatedConsistency got the identity {type(self.matching.identity).__name__}; use Stepped()",
        )
        assert isinstance(self.matching.identity, Stepped)
        identity = Truncated(copied(teacher).requires_grad_(False), self.seam, self.boundary, self.matching.identity)
        early = replace(self.matching, identity=identity, spans=ToEnd(Uniform(), most=self.seam))
        return replace(early, path=teacher.path)


@dataclass(frozen=True)
class TraFlow(FlowMapDistillation):
    """Trajectory distillation: output, velocity and self-consistency of a map along the trajectories of the teacher.

    the objective TrajectoryConsistency around ``matching``;  sampled with FlowMapStep
    With distance=Perceptual(OfBundle(teacher)) it is the distillation of SoundCTM, by features of the teacher.
    Source: Wu et al. 2025, TraFlow (arXiv 2502.16972); Saito et al. 2024, SoundCTM (arXiv 2405.18503).

    >>> TraFlow().for_evaluations(4).evaluations
    4
    """

    matching: FlowMapMatching = field(
        default_factory=lambda: FlowMapMatching(identity=Stepped(Between(0.1, 1.0), HEUN), spans=Ordered(diagonal=0.25))
    )
    strength: NonNegative = 1.0  # of self-consistency at the data end
    distance: Distance = squared  # of the data ends

    def objective(self, teacher: Flow) -> Any:
        return TrajectoryConsistency(super().objective(teacher), self.strength, self.distance)
