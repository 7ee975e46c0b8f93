"""Score games: a student against a network that learns its distribution, and a critic."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import eval_mode, frozen, wide_batch
from beeline.core.protocols.flows import Guidance, Reference
from beeline.core.protocols.games import Generated, Generation, Noised, Noising, Situation, StudentTerm
from beeline.core.protocols.objectives import ObjectiveSpec, Player
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, expand_time
from beeline.fields.flow import Flow, bind, evaluate_field
from beeline.objectives.games import formulas
from beeline.objectives.games.adversarial import Adversarial, logits, noised
from beeline.objectives.games.distance import SampleDistance
from beeline.objectives.games.generation import Fresh, OneJump, affine
from beeline.objectives.games.terms import ScoreDifference
from beeline.objectives.matching import Example, FlowMatching, ObjectiveBase
from beeline.sampling.guidance.guide import Extrapolate, Guide, Plain, Unconditional, guidance_for_flow


@dataclass(frozen=True)
class ScoreGame(ObjectiveBase):
    """A student that is trained by the scores of its own samples, which a second network follows.

    student: term(x, D_fake, D_T) + weight adversarial(d(x_t));  fake: flow matching on samples of the student;
    critic: real data against these samples
    The student moves in the steps 0, ratio, 2 ratio, ..., before the others, which move in every step: ``ratio`` moves
    of the fake network and of the critic for each move of the student.  While one moves, the others are frozen.
    Assumes a teacher on an affine path from Gaussian noise.  Its guidance is learned by the student.  The loss of a
    game says nothing: the held-out loss is the distance of samples, SampleDistance.
    Source: Yin et al. 2024, DMD2 (arXiv 2405.14867).

    >>> ScoreGame(Flow(nn.Linear(1, 1))).ratio
    5
    """

    teacher: Flow
    generation: Generation = field(default_factory=OneJump)
    term: StudentTerm | None = field(default_factory=ScoreDifference)  # None: the adversarial term alone
    noising: Noising = field(default_factory=Fresh)
    adversarial: Adversarial | None = None
    ratio: Count = 5  # moves of the others per move of the student
    guidance: Guidance = field(default_factory=Plain)  # of the teacher
    scales: tuple[float, float] | None = None  # of a guidance that is drawn for every sample, in place of ``guidance``
    reference: Reference = field(default_factory=Unconditional)  # of its weak prediction, such as a negative prompt
    matching: FlowMatching | None = None  # of the fake network; None is that of velocities on the teacher's path

    def __post_init__(self) -> None:
        require(
            self.term is not None or self.adversarial is not None,
            "ScoreGame got neither a term nor an adversarial term; the student has nothing to learn from: give one",
        )
        require(
            self.term is None or not self.term.ratio or self.adversarial is not None,
            f"ScoreGame got {self.term} and no adversarial term; the density ratio of its divergence comes from a "
            "critic: add adversarial=Adversarial()",
        )
        low, high = self.scales or (1.0, 1.0)
        require(
            0 <= low <= high and (self.scales is None or isinstance(self.guidance, Plain)),
            f"ScoreGame got scales={self.scales} and guidance={self.guidance}; scales are a range (low, high) of a "
            "random guidance, which stands for another: give one of them",
        )

    @property
    def spec(self) -> ObjectiveSpec:
        """Its networks, and the distance of samples as its held-out loss."""
        distance = SampleDistance(self.teacher, self.generation.sampler(self.teacher))
        return ObjectiveSpec(
            path=self.teacher.path, networks=self.networks, baselines=False, heldout=lambda times: distance
        )

    def networks(self) -> Mapping[str, nn.Module]:
        """The fake network, a copy of the teacher, and the critic, as far as they are used."""
        made: dict[str, nn.Module] = {}
        if self.follows:
            made["fake"] = copy.deepcopy(self.teacher.field).requires_grad_(True)
        if self.adversarial is not None:
            made["critic"] = self.adversarial.heads(self.teacher.field)
        return made

    @property
    def follows(self) -> bool:
        """Whether a network follows the student's samples."""
        on_fake = self.adversarial is not None and self.adversarial.on_fake
        return on_fake or (self.term is not None and self.term.fake)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        """The distance of the samples of a student from data."""
        distance: Loss = SampleDistance(self.teacher, self.generation.sampler(self.teacher))(field, batch, rng)
        return distance

    def players(self, **networks: nn.Module) -> Sequence[Player]:
        """The student first, then those that follow it."""
        student = next(net for name, net in networks.items() if name not in ("fake", "critic"))
        fake, critic = networks.get("fake"), networks.get("critic")

        def weights(net: nn.Module) -> list[nn.Parameter]:
            return [p for p in net.parameters() if p.requires_grad]

        alone = fake is None and critic is None
        found = [
            Player(
                "student",
                lambda batch, rng: self.student_loss(student, fake, critic, batch, rng),
                weights(student),
                1 if alone else self.ratio,
            )
        ]
        if fake is not None:
            found.append(Player("fake", lambda batch, rng: self.fake_loss(student, fake, batch, rng), weights(fake)))
        if critic is not None:
            act = lambda batch, rng: self.critic_loss(student, fake, critic, batch, rng)  # noqa: E731
            found.append(Player("critic", act, weights(critic)))
        return found

    def student_loss(self, student: Any, fake: Any, critic: Any, batch: Batch, rng: Rng) -> Loss:
        """The loss of the student, with a gradient in its weights alone."""
        batch = wide_batch(batch)
        with eval_mode(self.teacher.field, self.guidance, fake, critic, grad=True), frozen(self.teacher.field):
            made = self.generation(student, self.teacher, batch, rng.fork("generation"))
            at = self.noising(made, self.teacher.source, rng.fork("noising"))
            total = made.x1.new_zeros(len(made.x1))
            terms: dict[str, Tensor] = {}
            if self.term is not None:
                value = self.term(self.situation(made, at, fake, critic, batch.cond, rng.fork("scale")))
                total, terms["score"] = total + value, value.detach().mean()
            if self.adversarial is not None:
                x, t, _ = noised(self.adversarial, self.teacher, made.x1, rng, "made")
                value = self.adversarial.loss.student(self.judged(fake, critic, x, t, batch.cond))
                total, terms["adversarial"] = total + self.adversarial.weight * value, value.detach().mean()
        if batch.weight is not None:
            total = total * batch.weight
        spread = made.x1.detach().flatten(1).std(0, unbiased=False).mean()
        return Loss(total.mean(), {"loss": total.detach().mean(), **terms, "spread": spread}, total.detach(), at.t)

    def fake_loss(self, student: Any, fake: Any, batch: Batch, rng: Rng) -> Loss:
        """Flow matching of the fake network on samples of the student."""
        batch = wide_batch(batch)
        with eval_mode(student):
            made = self.generation(student, self.teacher, batch, rng.fork("generation"))
            at = self.noising(made, self.teacher.source, rng.fork("noising"))
        matching = self.matching or FlowMatching(affine(self.teacher))
        example = Example(Batch(made.x1, cond=batch.cond), at.t, at.x, at.v)
        return matching.compare(evaluate_field(fake, at.x, at.t, batch.cond), example)

    def critic_loss(self, student: Any, fake: Any, critic: Any, batch: Batch, rng: Rng) -> Loss:
        """The loss of the critic, on samples of the student and real ones."""
        game = self.adversarial
        assert game is not None
        batch = wide_batch(batch)
        with eval_mode(student, self.teacher.field, fake), frozen(self.teacher.field):
            made = self.generation(student, self.teacher, batch, rng.fork("generation")).x1
            real, real_cond = game.real(student, self.teacher, batch, rng.fork("real"))
        with eval_mode(self.teacher.field, fake, grad=True), frozen(self.teacher.field):
            x, t, _ = noised(game, self.teacher, made, rng, "made")
            y, s, again = noised(game, self.teacher, real, rng, "real")
            low, high = self.judged(fake, critic, x, t, batch.cond), self.judged(fake, critic, y, s, real_cond)
            per_sample = game.loss.critic(high, low)
            terms = {"real": high.detach().mean(), "made": low.detach().mean()}
            if game.r1:
                moved = real + game.deviation * rng.fork("r1").normal(real)
                penalty = formulas.r1(high, self.judged(fake, critic, again(moved), s, real_cond), game.deviation)
                per_sample, terms["r1"] = per_sample + game.r1 * penalty, penalty.detach().mean()
        value = per_sample.mean()
        return Loss(value, {"loss": value.detach(), **terms}, per_sample.detach(), t)

    def judged(self, fake: Any, critic: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The logits of the critic at noised samples."""
        assert self.adversarial is not None
        network = fake if self.adversarial.on_fake else self.teacher.field
        return logits(critic, network, self.adversarial.names(network), x, t, cond)

    def situation(self, made: Generated, at: Noised, fake: Any, critic: Any, cond: Cond, rng: Rng) -> Situation:
        """What the term of the student takes."""
        path = affine(self.teacher)

        def strong_and_weak(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            guide = guidance_for_flow(Guide(self.reference, Extrapolate(0.0)), self.teacher)
            assert isinstance(guide, Guide)
            strong, weak = guide.predictions(self.teacher.field, cond)[1](x, t)
            return path.data(x, strong, t), path.data(x, weak, t)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            if self.scales is None:
                return path.data(x, guidance_for_flow(self.guidance, self.teacher)(self.teacher.field, cond)(x, t), t)
            strong, weak = strong_and_weak(x, t)
            low, high = self.scales
            scale = low + (high - low) * rng.uniform(len(x), x.detach())
            return weak + expand_time(scale, x) * (strong - weak)

        return Situation(
            made,
            at,
            path,
            guided,
            lambda x, t: path.data(x, bind(fake, cond)(x, t), t),
            lambda x, t: self.judged(fake, critic, x, t, cond),
            strong_and_weak,
        )
