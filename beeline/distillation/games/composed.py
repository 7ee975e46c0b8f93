"""Distillations that join a score game with another objective, or games of several students."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.flows import Schedule
from beeline.core.ranges import Count, NonNegative, Share, dataclass
from beeline.distillation.games.methods import SteppedBase, matching_of
from beeline.distillation.students import as_student_map, copied
from beeline.fields.flow import Flow
from beeline.fields.trained import Trained
from beeline.objectives.games.composed import SplitGame, WithGame
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.games.generation import BackwardSimulation, CausalRollout, MapRollout
from beeline.objectives.maps import consistency, presets
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.velocities import OfTeacher
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import FlowMapStep
from beeline.times.schedules import Uniform


class MapWithGame(SteppedBase):
    """Base of a flow map with a score game; a subclass has ``matching``, ``weight`` and ``schedule``."""

    matching: FlowMapMatching
    weight: float
    schedule: Schedule

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": as_student_map(teacher)}

    def objective(self, teacher: Flow) -> WithGame:
        velocity = self.matching.velocity or OfTeacher(teacher, self.guidance)
        matching = replace(self.matching, path=teacher.path, velocity=velocity)
        return WithGame(matching, super().objective(teacher), self.weight)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow, _ = super().student(teacher, networks)
        return flow, Sampler(self.steps, schedule=self.schedule, solver=FlowMapStep())


@dataclass(frozen=True)
class RCM(MapWithGame):
    """A consistency model with a small score game on its own samples.

    the objective ContinuousConsistency + weight ScoreGame, as WithGame
    The trajectories keep the modes, and the game the details.
    Source: Zheng et al. 2025, rCM (arXiv 2510.08431).

    >>> RCM().for_evaluations(2).steps
    2
    """

    steps: Count = 1
    matching: FlowMapMatching = field(default_factory=consistency.ContinuousConsistency)
    weight: NonNegative = 0.01  # of the game
    schedule: Schedule = field(default_factory=Uniform)

    def game(self, teacher: Flow) -> ScoreGame:
        made = BackwardSimulation(self.steps, self.schedule)
        return ScoreGame(teacher, made, ratio=self.ratio, guidance=self.guidance, matching=matching_of(teacher))


@dataclass(frozen=True)
class AnyFlow(MapWithGame):
    """A flow map with a score game on its rollouts, for any number of evaluations.

    the objective MeanFlow + weight ScoreGame with MapRollout, as WithGame
    Source: Gu et al. 2026, AnyFlow (arXiv 2605.13724).

    >>> AnyFlow().for_evaluations(3).steps
    3
    """

    steps: Count = 1
    most: Count = 8  # steps of the rollouts
    matching: FlowMapMatching = field(default_factory=presets.MeanFlow)
    weight: NonNegative = 1.0  # of the game
    schedule: Schedule = field(default_factory=Uniform)

    def game(self, teacher: Flow) -> ScoreGame:
        made = MapRollout(self.most, self.steps, self.schedule)
        return ScoreGame(teacher, made, ratio=self.ratio, guidance=self.guidance, matching=matching_of(teacher))

    def trained(self, sampler: Sampler) -> Trained | None:
        return None  # for any times


@dataclass(frozen=True)
class SplitTimes(SteppedBase):
    """Finetuning of a few-step student in two copies, for noisy and for clean times, whose weights are merged.

    the objective SplitGame;  the student has the weights share A + (1 - share) B,  A for noisy times
    Start from a student of DMD2 or SharedDMD with the same steps: --set start=runs/student
    Source: SD3.5-Flash (arXiv 2509.21318), split-timestep finetuning.

    >>> SplitTimes().share
    0.3
    """

    at: Share = 0.5  # the time that divides the steps
    share: Share = 0.3  # of the weights for noisy times
    schedule: Schedule = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        require(
            self.steps >= 2,
            f"SplitTimes got steps={self.steps}; the steps are divided between two copies: give 2 or more",
        )

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"noisy": copied(teacher), "clean": copied(teacher)}

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(
            teacher,
            BackwardSimulation(self.steps, self.schedule),
            ratio=self.ratio,
            guidance=self.guidance,
            matching=matching_of(teacher),
        )

    def objective(self, teacher: Flow) -> SplitGame:
        whole = super().objective(teacher)
        parts = ((0.0, self.at), (self.at, 1.0))
        return SplitGame(*(replace(whole, generation=replace(whole.generation, part=part)) for part in parts))

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return super().student(teacher, {"student": merged(networks["noisy"], networks["clean"], self.share)})


@dataclass(frozen=True)
class SelfForcing(SteppedBase):
    """A causal student of sequences, trained on its own rollouts by a teacher that sees all frames.

    the objective ScoreGame with CausalRollout;  sampled with FrameByFrame
    Assumes data [B,F,*S] and a network with a time for every frame, such as MLP(frames=F), trained with the times
    Frames.  The evaluations are those of a group of frames.
    Source: Huang et al. 2025, "Self Forcing" (arXiv 2506.08009).

    >>> SelfForcing().for_evaluations(2).steps
    2
    """

    group: Count = 1  # frames that are made together
    schedule: Schedule = field(default_factory=Uniform)

    def game(self, teacher: Flow) -> ScoreGame:
        made = CausalRollout(self.steps, self.group, self.schedule)
        return ScoreGame(teacher, made, ratio=self.ratio, guidance=self.guidance, matching=matching_of(teacher))


def merged(a: nn.Module, b: nn.Module, share: float) -> nn.Module:
    """A network with the weights share A + (1 - share) B of two networks of one structure, and the buffers of B."""
    made: nn.Module = copy.deepcopy(b)
    theirs: dict[str, Any] = dict(a.named_parameters())
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(torch.lerp(p, theirs[name].to(p), share))
    return made
