"""What a score game has to be watched for: whether its fake network follows the student, and whether it collapses."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.modes import device_of, eval_mode
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, take, to
from beeline.fields.flow import bind
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.games.generation import affine
from beeline.sampling.sampler import Sampler
from beeline.training.callbacks import CallbackBase

RNG = Rng(0)
LAGS, COLLAPSED = 0.5, 0.7  # from where a note says what to do
SHARE, FREE = 0.1, 10.0  # of the time of the training for checks, and seconds that they may always take


@dataclass(frozen=True, eq=False)
class GameMonitor(CallbackBase):
    """A check of a score game during its training, whose findings are notes of the log.

    lag = sqrt(E |D_fake - D_fit|^2 / E |D_fit - D_T|^2),  D_fit a copy of the teacher fitted to samples of the student
    spread = root mean square deviation of samples of the student, over that of samples of the teacher
    A lag of 1 says that the error of the fake network is as large as the signal that the student follows.  Costs
    ``fit`` steps of the fake network at every check.

    >>> from beeline.fields.flow import Flow
    >>> GameMonitor(ScoreGame(Flow(nn.Identity())), Batch(torch.zeros(4, 2))).fit
    40
    """

    game: ScoreGame
    data: Batch  # conditions, and the shape of a datum
    rng: Rng = RNG
    every: Count = 500  # steps between two checks
    fit: Count = 40  # steps of the fresh network
    rows: Count = 128  # samples of a check
    sampler: Sampler = field(default_factory=Sampler)  # of the teacher
    held: dict[str, Any] = field(default_factory=dict, repr=False)  # the fake network, times, the teacher's spread

    name = "game"

    def due(self, step: int, steps: int) -> bool:
        """At most for a tenth of the time of the training, and not at its end, when nothing can be done any more."""
        spent, elapsed = self.held.get("spent", 0.0), time.perf_counter() - self.held.get("begin", time.perf_counter())
        return step % self.every == 0 and step < steps and spent <= max(FREE, SHARE * elapsed)

    def watch(self, networks: Mapping[str, nn.Module]) -> None:
        self.held.update(fake=networks.get("fake"), begin=time.perf_counter())

    def evaluate(self, raw: nn.Module, ema: nn.Module | None, step: int) -> dict[str, Any]:
        """The lag and the spread, and a note where one of them is bad."""
        begin, where = time.perf_counter(), device_of(raw) or self.data.x1.device
        batch = to(take(self.data, torch.arange(min(self.rows, len(self.data.x1)))), where)
        flow, fake = self.game.teacher, self.held.get("fake")
        made = self.game.generation.sampler(flow)(replace(flow, field=raw), self.noise(batch), batch.cond)
        found: dict[str, Any] = {"spread": deviation(made) / self.spread_of_teacher(batch)}
        if isinstance(fake, nn.Module):
            found["lag"] = self.lag(raw, fake, batch)
        self.held["spent"] = self.held.get("spent", 0.0) + time.perf_counter() - begin
        notes = advice(found)
        return found | ({"note": "; ".join(notes)} if notes else {})

    def noise(self, batch: Batch) -> Tensor:
        """The source points of both, the same at every check."""
        return self.game.teacher.source.sample(batch.x1, self.rng.fork("noise"))

    def spread_of_teacher(self, batch: Batch) -> float:
        """The deviation of samples of the teacher, which is computed once."""
        if "spread" not in self.held:
            sampler = replace(self.sampler, guidance=self.game.guidance)
            self.held["spread"] = deviation(sampler(self.game.teacher, self.noise(batch), batch.cond))
        return float(self.held["spread"])

    def lag(self, student: nn.Module, fake: nn.Module, batch: Batch) -> float:
        """The error of the fake network, relative to the difference of the student's score from the teacher's."""
        teacher = self.game.teacher.field
        fresh: nn.Module = copy.deepcopy(teacher).requires_grad_(True).train()
        optimizer = torch.optim.Adam(fresh.parameters(), 1e-3)
        for k in range(self.fit):
            with torch.enable_grad(), self.rng.fork("ambient", k).ambient():
                loss = self.game.fake_loss(student, fresh, batch, self.rng.fork("fit", k))
                optimizer.zero_grad()
                loss.value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with eval_mode(student, fake, fresh, teacher):
            made = self.game.generation(student, self.game.teacher, batch, self.rng.fork("lag"))
            at = self.game.noising(made, self.game.teacher.source, self.rng.fork("noised"))
            path = affine(self.game.teacher)
            data = [path.data(at.x, bind(net, batch.cond)(at.x, at.t), at.t) for net in (fake, fresh, teacher)]
            error, signal = (float((data[i] - data[i + 1]).square().mean()) for i in (0, 1))
        return (error / max(signal, 1e-12)) ** 0.5


def deviation(x: Tensor) -> float:
    """The root mean square deviation from the mean."""
    return float(x.flatten(1).var(0, unbiased=False).mean().sqrt())


def advice(found: Mapping[str, float]) -> list[str]:
    """What to do about the findings of a check.

    >>> advice({"spread": 1.0, "lag": 0.1})
    []
    """
    notes = []
    if found["spread"] < COLLAPSED:
        notes.append(
            f"samples of the student deviate {found['spread']:.2g} times as much as those of the teacher: it "
            "collapses; raise method.ratio, lower the learning rate or the weight of the adversarial term, or use "
            "FDistill"
        )
    if found.get("lag", 0.0) > LAGS:
        notes.append(
            f"the error of the fake network is {found['lag']:.2g} of the difference that the student follows: it lags "
            "behind; raise method.ratio, or lower the learning rate"
        )
    return notes


def monitors(objective: Any, data: Batch, rng: Rng) -> tuple[GameMonitor, ...]:
    """The check of an objective that is a score game; none for others."""
    return (GameMonitor(objective, data, rng),) if isinstance(objective, ScoreGame) else ()
