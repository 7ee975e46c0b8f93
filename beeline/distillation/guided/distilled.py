"""Distillation of guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.flows import Reference
from beeline.core.protocols.games import GuidedStudent
from beeline.core.ranges import Count, Whole, dataclass
from beeline.distillation.finetune import Tuned
from beeline.distillation.guided.students import IntoNetwork
from beeline.distillation.students import error_space
from beeline.fields.flow import Flow
from beeline.objectives.games.generation import affine
from beeline.objectives.guided import GuidanceDistilled
from beeline.objectives.matching import FlowMatching
from beeline.sampling.guidance.guide import Unconditional
from beeline.sampling.guidance.temperature import Temperature
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class GuidanceDistillation(Tuned):
    """Distillation of a guided teacher to a student that takes one network pass per evaluation.

    the objective GuidanceDistilled;  sampled with Temperature(scale), or for one scale without guidance
    What learns is the network with one more input, adapters, a side network, or a low-rank change of the weights.
    Assumes a teacher with named conditions that were dropped in training, or a reference for its weak prediction.
    Source: Meng et al. 2023, "On Distillation of Guided Diffusion Models" (arXiv 2210.03142).

    >>> GuidanceDistillation(scales=(2.0, 2.0)).for_evaluations(8).steps
    4
    """

    into: GuidedStudent = field(default_factory=IntoNetwork)
    scales: tuple[float, float] = (1.0, 4.0)  # the lowest and the highest guidance scale, 1 to 10
    reference: Reference = field(default_factory=Unconditional)  # of the weak prediction
    rollout: Whole = 0  # steps of guided sampling whose states are trained on; 0 takes noised data
    steps: Count = 20  # of the sampler of the student

    def __post_init__(self) -> None:
        require(
            self.into.scaled or self.scales[0] == self.scales[1],
            f"GuidanceDistillation got scales={self.scales} and {type(self.into).__name__}, which learns one scale: "
            f"give scales=({self.scales[1]}, {self.scales[1]}), or another student",
        )

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": self.into.build(teacher)}

    def objective(self, teacher: Flow) -> GuidanceDistilled:
        matching = FlowMatching(affine(teacher), prediction=error_space(teacher))
        return GuidanceDistilled(teacher, matching, self.reference, self.scales, self.into.scaled, self.rollout)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        net = self.into.finished(networks["student"])
        flow = replace(teacher, field=net, independent=False, null={})  # a guided field has no score and no null
        if not self.into.scaled:
            return flow, Sampler(self.steps)
        low, high = self.scales
        return flow, Sampler(self.steps, guidance=Temperature(min(max(1.5, low), high)))
