"""Distillations of the literature around the objective of flow maps, with networks or data of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from torch import nn

from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import Count, NonNegative, Share, dataclass
from beeline.couplings.basic import Paired
from beeline.distillation.finetune import OnData
from beeline.distillation.maps.flow_maps import FlowMapDistillation, even
from beeline.distillation.paired import PairMethod
from beeline.distillation.students import as_student_map, copied
from beeline.fields.flow import Flow
from beeline.networks.maps.decoupled import decoupled
from beeline.objectives.maps import presets
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.moments import InductiveMoments
from beeline.objectives.maps.transport import MarginalTransport
from beeline.objectives.maps.velocities import OfPair
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER, FlowMapStep


@dataclass(frozen=True)
class RectifiedMeanFlow(PairMethod):
    """MeanFlow on pairs of the teacher, which have straighter trajectories than those of the data.

    the objective RectifiedMeanFlow with the slopes of the pairs;  sampled with FlowMapStep
    Distant pairs are left out where the pairs come from a store with the filter Nearest(0.9).
    Source: Zhang et al. 2025, MeanFlow on rectified trajectories (arXiv 2511.23342).

    >>> RectifiedMeanFlow().for_evaluations(2).evaluations
    2
    """

    matching: FlowMapMatching = field(default_factory=presets.RectifiedMeanFlow)
    evaluations: Count = 1  # of the sampler of the student

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": as_student_map(teacher)}

    def objective(self, teacher: Flow) -> Any:
        velocity = self.matching.velocity or OfPair()
        return replace(self.matching, path=teacher.path, velocity=velocity, coupling=Paired())

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        return flow, Sampler(self.evaluations, solver=FlowMapStep())

    def for_evaluations(self, evaluations: int) -> RectifiedMeanFlow:
        return replace(self, evaluations=evaluations)


@dataclass(frozen=True)
class DecoupledMeanFlow(FlowMapDistillation):
    """Decoupled MeanFlow: a trained transformer becomes a flow map without a new module.

    the objective MeanFlow for the network DecoupledTimes;  sampled with FlowMapStep
    For s = t the student is the teacher exactly at first.
    Source: Lee, Yu and Shin 2025, "Decoupled MeanFlow" (arXiv 2510.24474).

    >>> DecoupledMeanFlow().share == 2 / 3
    True
    """

    matching: FlowMapMatching = field(default_factory=lambda: presets.MeanFlow(spans=even()))
    share: Share = 2 / 3  # share of the blocks that take the start of a jump; the others take its end

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": decoupled(copied(teacher), self.share)}


@dataclass(frozen=True)
class InductiveMomentMatching(OnData):
    """Inductive moment matching that starts from a trained flow, whose velocities it does not use.

    the objective InductiveMoments;  sampled with FlowMapStep
    Source: Zhou, Ermon and Song 2025, "Inductive Moment Matching" (arXiv 2503.07565).

    >>> InductiveMomentMatching().for_evaluations(2).evaluations
    2
    """

    evaluations: Count = 1  # of the sampler of the student
    moments: InductiveMoments = field(default_factory=InductiveMoments)

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": as_student_map(teacher)}

    def objective(self, teacher: Flow) -> InductiveMoments:
        return self.moments

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        return flow, Sampler(self.evaluations, solver=FlowMapStep())

    def for_evaluations(self, evaluations: int) -> InductiveMomentMatching:
        return replace(self, evaluations=evaluations)


@dataclass(frozen=True)
class MarginalDataTransport(OnData):
    """Marginal-data transport distillation: a student with one time, by velocity matching and velocity distillation.

    the objective MarginalTransport;  sampled with Euler steps of average velocities to the data
    Source: Zhang et al. 2025, MDT-dist (arXiv 2509.04406).

    >>> MarginalDataTransport().for_evaluations(2).evaluations
    2
    """

    evaluations: Count = 1  # of the sampler of the student; 1 or 2
    strength: NonNegative = 1.0  # of velocity distillation
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns with its flow

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": copied(teacher)}

    def objective(self, teacher: Flow) -> MarginalTransport:
        return MarginalTransport(teacher, self.strength, guidance=self.guidance)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        return flow, Sampler(self.evaluations, solver=EULER)

    def for_evaluations(self, evaluations: int) -> MarginalDataTransport:
        return replace(self, evaluations=evaluations)
