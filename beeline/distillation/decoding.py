"""Parallel decoding distillation of any field whose network has a last layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import ClassVar

from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance, Schedule, Solver
from beeline.core.ranges import Count, dataclass
from beeline.distillation.finetune import OnData
from beeline.distillation.students import copied
from beeline.fields.flow import Flow
from beeline.fields.trained import Trained
from beeline.networks.maps.head_bank import HeadBank
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.maps.decoding import DecodingMatching
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import MIDPOINT, FlowMapStep
from beeline.times.schedules import Uniform


@dataclass(frozen=True)
class ParallelDecoding(OnData):
    """Parallel decoding distillation: a last layer for every step of the teacher, all from one evaluation.

    the objective DecodingMatching for the network HeadBank;  sampled in 1 to ``most`` evaluations from one bundle
    Assumes a network that declares its last layer.  It takes one regression, without a second time, a derivative or a
    critic, and keeps the pairing of noise and data of the teacher.
    Source: NVIDIA 2026, parallel decoding distillation (arXiv 2607.26004).

    >>> ParallelDecoding(intervals=12).for_evaluations(3).most
    3
    """

    automatic: ClassVar[bool] = True

    evaluations: Count = 1  # of the sampler of the student
    most: Count = 1  # largest number of evaluations that is trained; its divisors are trained too
    intervals: Count = 32  # steps of the teacher from noise to data
    schedule: Schedule = field(default_factory=Uniform)  # of these steps; shifted ones for large images
    solver: Solver = MIDPOINT  # of the teacher in an interval; EULER with 64 intervals costs half of it
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns with its flow
    data_free: bool = False  # states from the student's own samples in place of the data
    distance: Distance = squared

    def __post_init__(self) -> None:
        require(
            self.intervals % self.most == 0 and self.most % self.evaluations == 0,
            f"ParallelDecoding got evaluations={self.evaluations}, most={self.most}, intervals={self.intervals}; the "
            "grid is divided into most blocks of equal numbers of intervals, and evaluations into them: give numbers "
            "that divide each other, such as 2, 4 and 32",
        )

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": HeadBank(copied(teacher), self.intervals, self.intervals // self.most, self.schedule)}

    def objective(self, teacher: Flow) -> DecodingMatching:
        grid = (self.intervals, self.most, self.schedule)
        return DecodingMatching(teacher, *grid, self.solver, self.guidance, self.data_free, self.distance)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        return flow, Sampler(self.evaluations, schedule=self.schedule, solver=FlowMapStep())

    def trained(self, sampler: Sampler) -> Trained | None:
        starts = self.schedule(self.intervals)[:: self.intervals // self.most]
        return Trained(tuple(starts.tolist()))

    def taught(self, sampler: Sampler) -> Sampler:
        return replace(sampler, guidance=self.guidance)

    def for_evaluations(self, evaluations: int) -> ParallelDecoding:
        require(
            evaluations >= 1 and self.intervals % evaluations == 0,
            f"ParallelDecoding got {evaluations} evaluations for a grid of {self.intervals} intervals; every one "
            f"decodes the same number of them: give a divisor of {self.intervals}, or set method.intervals to a "
            f"multiple of {evaluations}",
        )
        most = self.most if self.most % evaluations == 0 else evaluations
        return replace(self, evaluations=evaluations, most=most)
