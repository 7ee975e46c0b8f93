"""Distillations by an adversarial term alone."""

from __future__ import annotations

from dataclasses import field, replace

from beeline.core.protocols.flows import Schedule
from beeline.core.ranges import Count, NonNegative, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.games.methods import GameBase, SteppedBase
from beeline.distillation.paired import teacher_pairs
from beeline.fields.flow import Flow
from beeline.networks.hooks import block_paths
from beeline.objectives.games.adversarial import Adversarial, OwnCleaner
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.games.generation import FromNoisedData
from beeline.sampling.sampler import Sampler
from beeline.times.samplers import LogitNormal
from beeline.times.samplers import Uniform as Anywhere
from beeline.times.schedules import Uniform


@dataclass(frozen=True)
class LADD(SteppedBase):
    """Latent adversarial diffusion distillation: heads on the features of the frozen teacher judge the samples.

    the objective ScoreGame with an adversarial term alone, on all blocks of the teacher by default
    The real samples are those of the teacher with ``sampler``, whose guidance is learned, or the data without one.
    Which noise belongs to which datum is forgotten: seeds, inversion and editing of the teacher do not carry over.
    Source: Sauer et al. 2024, LADD (arXiv 2403.12015).

    >>> LADD().for_evaluations(1).steps
    1
    """

    ratio: Count = 1
    schedule: Schedule = field(default_factory=Uniform)
    sampler: Sampler | None = None  # of the real samples; None takes the data
    adversarial: Adversarial = field(
        default_factory=lambda: Adversarial(weight=1.0, r1=0.1, times=LogitNormal(-0.5, 1.0))
    )  # at noisy times first, for structure; without R1 the heads win soon
    pure: Share = 0.5  # share of samples from noise alone

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return (
            batch
            if self.sampler is None
            else replace(teacher_pairs(self.sampler, None, 0.0, teacher, batch, rng), x0=None)
        )

    def heldout(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return batch

    def game(self, teacher: Flow) -> ScoreGame:
        blocks = self.adversarial.blocks or tuple(block_paths(teacher.field))
        term = replace(self.adversarial, blocks=blocks)
        made = FromNoisedData(self.steps, self.schedule, pure=self.pure)
        return ScoreGame(teacher, made, None, adversarial=term, ratio=self.ratio, guidance=self.guidance)


@dataclass(frozen=True)
class SelfCooperative(GameBase):
    """A one-step student whose critic compares its samples from noisy states with its own from cleaner ones.

    the objective ScoreGame with an adversarial term alone, and OwnCleaner as the real samples
    Assumes data, from which the cleaner states are made; at the datum itself the real sample is the datum.
    Source: Luo et al. 2024, "You Only Sample Once" (arXiv 2403.12931).

    >>> SelfCooperative().gap
    0.5
    """

    ratio: Count = 1
    gap: Share = 0.5  # largest distance of the cleaner time from the data
    pure: Share = 0.5  # share of samples from noise alone, as in sampling
    r1: NonNegative = 0.1  # weight of the penalty on the critic
    blocks: tuple[str, ...] = ()  # of the teacher, whose features the critic takes; all by default

    def game(self, teacher: Flow) -> ScoreGame:
        blocks = self.blocks or tuple(block_paths(teacher.field))
        term = Adversarial(1.0, real=OwnCleaner(self.gap), blocks=blocks, r1=self.r1)
        made = FromNoisedData(1, times=Anywhere(), pure=self.pure)
        return ScoreGame(teacher, made, None, adversarial=term, ratio=self.ratio)
