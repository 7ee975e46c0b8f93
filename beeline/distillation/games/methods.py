"""The base of distillations by score games."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance
from beeline.core.protocols.training import Distillation
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.students import copied, determines_end, error_space
from beeline.fields.flow import Flow
from beeline.fields.trained import Trained
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.games.generation import affine
from beeline.objectives.matching import FlowMatching
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class GameBase(Distillation):
    """Base of distillations by a ScoreGame; a subclass writes ``game``.

    The student starts as a copy of the teacher, and its bundle holds no other network.
    """

    ratio: Count = 5  # moves of the fake network and of the critic per move of the student
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns

    def game(self, teacher: Flow) -> ScoreGame:
        """The objective for a teacher."""
        raise NotImplementedError(f"{type(self).__name__} has no game; write game(teacher) -> ScoreGame")

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": copied(teacher)}

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return batch

    def objective(self, teacher: Flow) -> Any:
        require(
            determines_end(affine(teacher)),
            f"{type(self).__name__} got a teacher on {teacher.path}, whose slope at t = 0 does not depend on the "
            "datum; convert the teacher with convert_flow(flow, Linear())",
        )
        return self.game(teacher)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        # the condition was never dropped, and the coupling of noise and datum is the student's own
        flow = replace(teacher, field=networks["student"], independent=False, null={})
        return flow, self.game(teacher).generation.sampler(teacher)

    def trained(self, sampler: Sampler) -> Trained | None:
        return Trained(tuple(sampler.times().tolist()))

    def taught(self, sampler: Sampler) -> Sampler:
        return replace(sampler, guidance=self.guidance)

    def for_evaluations(self, evaluations: int) -> Any:
        """The method for a student of so many evaluations."""
        require(
            evaluations == 1,
            f"{type(self).__name__} was asked for {evaluations} evaluations, and its student takes one; use DMD2, "
            "which has steps=",
        )
        return self


@dataclass(frozen=True)
class SteppedBase(GameBase):
    """Base of games whose students take several steps."""

    steps: Count = 4  # evaluations of the student

    def for_evaluations(self, evaluations: int) -> Any:
        return replace(self, steps=evaluations)


def matching_of(teacher: Flow) -> FlowMatching:
    """The objective of the fake network, with errors in the space of the teacher's prediction."""
    return FlowMatching(affine(teacher), prediction=error_space(teacher))
