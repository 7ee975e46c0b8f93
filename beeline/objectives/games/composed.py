"""Score games beside other objectives, and games of several students."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from beeline.core.protocols.objectives import ObjectiveSpec, Player, spec_of
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.matching import ObjectiveBase


@dataclass(frozen=True)
class WithGame(ObjectiveBase):
    """An objective of the student, such as that of a flow map, beside a score game with the same student.

    student: objective + weight game;  the fake network and the critic: as in the game
    Source: Zheng et al. 2025, rCM (arXiv 2510.08431), for a consistency objective and a weight of 0.01.

    >>> from beeline.fields.flow import Flow
    >>> from beeline.objectives.matching import FlowMatching
    >>> WithGame(FlowMatching(), ScoreGame(Flow(nn.Linear(1, 1)))).weight
    0.01
    """

    objective: Any
    game: ScoreGame
    weight: NonNegative = 0.01  # of the game

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(self.game.spec, evolves=spec_of(self.objective).evolves)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        """The distance of the samples of a student from data."""
        return self.game(field, batch, rng)

    def players(self, **networks: nn.Module) -> Sequence[Player]:
        """Those of the game; the loss of the student is the sum."""
        student = next(iter(networks.values()))
        first, *others = self.game.players(**networks)

        def both(batch: Batch, rng: Rng) -> Loss:
            own, game = self.objective(student, batch, rng.fork("objective")), first.loss(batch, rng)
            value = own.value + self.weight * game.value
            terms = {"loss": value.detach(), "objective": own.value.detach(), **game.terms}
            return Loss(value, terms | {"loss": value.detach()}, own.per_sample, own.t)

        return [first._replace(loss=both), *others]


@dataclass(frozen=True)
class SplitGame(ObjectiveBase):
    """Two students of one game, one for the noisy and one for the clean times, with a fake network for both.

    noisy: the steps that start before ``at``;  clean: those from there on;  the fake network learns the samples of both
    Their weights are merged after the training, which assumes that both started from one network.
    Source: SD3.5-Flash (arXiv 2509.21318), split-timestep finetuning.

    >>> from beeline.fields.flow import Flow
    >>> SplitGame(ScoreGame(Flow(nn.Linear(1, 1))), ScoreGame(Flow(nn.Linear(1, 1)))).noisy.ratio
    5
    """

    noisy: ScoreGame
    clean: ScoreGame

    @property
    def spec(self) -> ObjectiveSpec:
        return self.noisy.spec

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        """The distance of the samples of a student from data."""
        return self.noisy(field, batch, rng)

    def players(self, noisy: nn.Module, clean: nn.Module, **others: nn.Module) -> Sequence[Player]:
        """Both students, then the networks that follow them."""
        first, *rest = self.noisy.players(student=noisy, **others)
        second, *again = self.clean.players(student=clean, **others)

        def mean(one: Callable[[Batch, Rng], Loss], two: Callable[[Batch, Rng], Loss]) -> Callable[[Batch, Rng], Loss]:
            def loss(batch: Batch, rng: Rng) -> Loss:
                a, b = one(batch, rng.fork("noisy")), two(batch, rng.fork("clean"))
                value: Tensor = (a.value + b.value) / 2
                terms = {name: (a.terms[name] + b.terms[name]) / 2 for name in a.terms}
                return Loss(value, terms, (a.per_sample + b.per_sample) / 2, a.t)

            return loss

        shared = [p._replace(loss=mean(p.loss, q.loss)) for p, q in zip(rest, again, strict=True)]
        return [first._replace(name="noisy"), second._replace(name="clean"), *shared]
