"""Distillation of a flow to a flow map, which samples in any number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, ClassVar

from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance, Schedule, Solver
from beeline.core.ranges import Count, dataclass
from beeline.distillation.finetune import OnData
from beeline.distillation.students import as_student_map
from beeline.fields.flow import Flow
from beeline.fields.trained import Trained
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.spans import Gapped
from beeline.objectives.maps.velocities import OfTeacher
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import FlowMapStep
from beeline.times.samplers import Uniform as Anywhere
from beeline.times.schedules import Uniform


@dataclass(frozen=True)
class FlowMapDistillation(OnData):
    """Distillation of a flow to a flow map by any setting of FlowMapMatching.

    the objective ``matching`` on the path of the teacher, with the (guided) velocity of the teacher;  a copy of the
    teacher's network with a second time, which is the teacher at first;  sampled with FlowMapStep
    Assumes data for the states of the path.  ``matching.velocity=OfPair()`` takes the velocities of the data instead,
    which is finetuning of the teacher to a map.
    Source: Boffi, Albergo and Vanden-Eijnden 2024, "Flow Map Matching" (arXiv 2406.07507).

    >>> FlowMapDistillation().for_evaluations(4).evaluations
    4
    """

    by_samples: ClassVar[bool] = True  # its targets move with the network

    matching: FlowMapMatching = field(default_factory=FlowMapMatching)
    evaluations: Count = 1  # of the sampler of the student
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns with its flow
    schedule: Schedule = field(default_factory=Uniform)  # of the steps of the student

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": as_student_map(teacher)}

    def objective(self, teacher: Flow) -> Any:
        velocity = self.matching.velocity or OfTeacher(teacher, self.guidance)
        return replace(self.matching, path=teacher.path, velocity=velocity)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        return flow, Sampler(self.evaluations, schedule=self.schedule, solver=self.solver())

    def solver(self) -> Solver:
        """The step of the student."""
        return FlowMapStep()

    def taught(self, sampler: Sampler) -> Sampler:
        return replace(sampler, guidance=self.guidance)

    def for_evaluations(self, evaluations: int) -> Any:
        return replace(self, evaluations=evaluations)


def even() -> Gapped:
    """Jumps of all lengths equally often, and a quarter of them on the diagonal."""
    return Gapped(gap=Anywhere(), diagonal=0.25)


class OneJump(FlowMapDistillation):
    """Base of methods whose map has the source as its only start, so that its students take one step."""

    def trained(self, sampler: Sampler) -> Trained | None:
        return Trained(tuple(sampler.times().tolist()))

    def for_evaluations(self, evaluations: int) -> Any:
        require(
            evaluations == 1,
            f"{type(self).__name__} got {evaluations} evaluations; its map starts at the source only, so that its "
            "student takes one step: use MeanFlow, AlignYourFlow or ParallelDecoding",
        )
        return self
