"""Distribution matching distillation and its variants."""

from __future__ import annotations

from dataclasses import field, replace
from typing import ClassVar

from beeline.core.protocols.flows import Reference, Schedule, TimeSampler
from beeline.core.protocols.games import FDivergence
from beeline.core.ranges import Count, NonNegative, Positive, dataclass
from beeline.distillation.games.methods import GameBase, SteppedBase, matching_of
from beeline.fields.flow import Flow
from beeline.objectives.games.adversarial import Adversarial
from beeline.objectives.games.divergences import JensenShannon
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.games.generation import BackwardSimulation, Fresh, OneJump, Phases, SharedTimes
from beeline.objectives.games.terms import (
    Fisher,
    GuidanceAugmentation,
    NoiseUnits,
    ScoreDifference,
    ScoreIdentity,
    ScoreImplicit,
)
from beeline.sampling.guidance.guide import Unconditional
from beeline.times.samplers import Uniform as Anywhere
from beeline.times.schedules import Uniform


@dataclass(frozen=True)
class DMD(GameBase):
    """Distribution matching distillation: a one-step student by the scores of its samples.

    the objective ScoreGame with the gradient of the reverse KL divergence
    The pairing of noise and datum of the teacher is not learned.
    Source: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation" (arXiv 2311.18828), without
    its regression on pairs.

    >>> DMD().for_evaluations(1).ratio
    5
    """

    times: TimeSampler = field(default_factory=Anywhere)  # of the comparison

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(
            teacher,
            noising=Fresh(self.times),
            ratio=self.ratio,
            guidance=self.guidance,
            matching=matching_of(teacher),
        )


@dataclass(frozen=True)
class DMD2(SteppedBase):
    """Improved distribution matching distillation: several steps by backward simulation, and an adversarial term.

    the objective ScoreGame with BackwardSimulation, the reverse KL divergence and a critic on real data
    Source: Yin et al. 2024, "Improved Distribution Matching Distillation" (arXiv 2405.14867).

    >>> DMD2().for_evaluations(2).steps
    2
    """

    automatic: ClassVar[bool] = True

    schedule: Schedule = field(default_factory=Uniform)  # the steps of the student
    times: TimeSampler = field(default_factory=Anywhere)  # of the comparison
    adversarial: Adversarial | None = field(default_factory=lambda: Adversarial(weight=1e-3))  # None needs no data

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(
            teacher,
            BackwardSimulation(self.steps, self.schedule),
            noising=Fresh(self.times),
            adversarial=self.adversarial,
            ratio=self.ratio,
            guidance=self.guidance,
            matching=matching_of(teacher),
        )


@dataclass(frozen=True)
class FDistill(DMD2):
    """Distribution matching with any f-divergence, by the density ratio of a critic.

    the objective ScoreGame with ScoreDifference(divergence)
    ForwardKL and JensenShannon cover the modes of the data, ReverseKL prefers the main ones.
    Source: Xu et al. 2025, "One-step Diffusion Models with f-Divergence Distribution Matching" (arXiv 2502.15681).

    >>> FDistill().divergence
    JensenShannon()
    """

    automatic: ClassVar[bool] = False

    divergence: FDivergence = field(default_factory=JensenShannon)

    def game(self, teacher: Flow) -> ScoreGame:
        return replace(super().game(teacher), term=ScoreDifference(self.divergence))


@dataclass(frozen=True)
class SharedDMD(SteppedBase):
    """Distribution matching on the student's own trajectory, at the times of its steps (timestep sharing).

    the objective ScoreGame with BackwardSimulation and SharedTimes
    Source: SD3.5-Flash (arXiv 2509.21318).

    >>> SharedDMD().for_evaluations(2).steps
    2
    """

    schedule: Schedule = field(default_factory=Uniform)
    adversarial: Adversarial | None = None

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(
            teacher,
            BackwardSimulation(self.steps, self.schedule),
            noising=SharedTimes(),
            adversarial=self.adversarial,
            ratio=self.ratio,
            guidance=self.guidance,
            matching=matching_of(teacher),
        )


@dataclass(frozen=True)
class PhasedDMD(SteppedBase):
    """Distribution matching by phases: every step of the student reaches the teacher's distribution at its end.

    the objective ScoreGame with Phases: the fake network is trained by flow matching on the path to that end
    One network learns all phases.
    Source: Fan et al. 2025, "Phased DMD" (arXiv 2510.27684).

    >>> PhasedDMD().for_evaluations(2).steps
    2
    """

    schedule: Schedule = field(default_factory=Uniform)

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(teacher, Phases(self.steps, self.schedule), ratio=self.ratio, guidance=self.guidance)


@dataclass(frozen=True)
class SiD(GameBase):
    """Score identity distillation: a one-step student by a Fisher divergence, without data.

    the objective ScoreGame with ScoreIdentity(alpha)
    Source: Zhou et al. 2024, "Score identity Distillation" (arXiv 2404.04057).

    >>> SiD().alpha
    1.0
    """

    ratio: Count = 1
    alpha: NonNegative = 1.0  # 0.5 is without bias for an exact fake network; 1 to 1.2 in the paper

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(
            teacher,
            term=ScoreIdentity(self.alpha),
            ratio=self.ratio,
            guidance=self.guidance,
            matching=matching_of(teacher),
        )


@dataclass(frozen=True)
class ScoreImplicitMatching(GameBase):
    """Score implicit matching: a one-step student by a pseudo-Huber distance of scores, without data.

    the objective ScoreGame with ScoreImplicit(scale)
    Source: Luo et al. 2024, "One-Step Diffusion Distillation through Score Implicit Matching" (arXiv 2410.16794).

    >>> ScoreImplicitMatching().scale
    0.1
    """

    ratio: Count = 1
    scale: Positive = 0.1  # of the pseudo-Huber distance, per coordinate in data units

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(
            teacher,
            term=ScoreImplicit(self.scale),
            ratio=self.ratio,
            guidance=self.guidance,
            matching=matching_of(teacher),
        )


@dataclass(frozen=True)
class FisherDistill(GameBase):
    """A one-step student by the Fisher divergence, with gradients through the fake network.

    the objective ScoreGame with Fisher(correction)

    >>> FisherDistill().correction
    1.0
    """

    ratio: Count = 1
    correction: NonNegative = 1.0  # 1 is exact for an exact fake network; far below it the student collapses

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(
            teacher,
            term=Fisher(self.correction),
            ratio=self.ratio,
            guidance=self.guidance,
            matching=matching_of(teacher),
        )


@dataclass(frozen=True)
class VariationalScore(GameBase):
    """Variational score distillation of a one-step student: differences of the expected noise, without data.

    the objective ScoreGame with ScoreDifference(weight=NoiseUnits())
    Source: Nguyen and Tran 2023, SwiftBrush (arXiv 2312.05239).

    >>> VariationalScore().ratio
    1
    """

    ratio: Count = 1
    times: TimeSampler = field(default_factory=Anywhere)

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(
            teacher,
            term=ScoreDifference(weight=NoiseUnits()),
            noising=Fresh(self.times),
            ratio=self.ratio,
            guidance=self.guidance,
            matching=matching_of(teacher),
        )


@dataclass(frozen=True)
class RandomGuidance(VariationalScore):
    """Variational score distillation with a guidance scale of the teacher that is drawn for every sample.

    the objective ScoreGame with scales and a reference, which is a negative prompt where it is OtherCondition
    Assumes a conditional teacher with a null condition, or the reference.
    Source: Nguyen et al. 2024, SNOOPI (arXiv 2412.02687), proper guidance; the negative prompt is in training here.

    >>> RandomGuidance().scales
    (1.0, 4.0)
    """

    scales: tuple[float, float] = (1.0, 4.0)  # the lowest and the highest
    reference: Reference = field(default_factory=Unconditional)

    def game(self, teacher: Flow) -> ScoreGame:
        return replace(super().game(teacher), scales=self.scales, reference=self.reference)


@dataclass(frozen=True)
class GuidanceAugmented(GameBase):
    """A one-step student by the guidance part of a distribution matching gradient alone, without a second network.

    the objective ScoreGame with GuidanceAugmentation(scale)
    Assumes a conditional teacher with a null condition.  Some hundred steps are enough; more over-saturate.
    Source: Liu et al. 2025, "Decoupled DMD" (arXiv 2511.22677).

    >>> GuidanceAugmented().scale
    2.0
    """

    ratio: Count = 1
    scale: NonNegative = 2.0  # of the guidance; 1 is none

    def game(self, teacher: Flow) -> ScoreGame:
        return ScoreGame(teacher, OneJump(), GuidanceAugmentation(self.scale), ratio=1)
