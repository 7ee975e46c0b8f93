"""The check of a score game: the lag of its fake network, the spread of its samples, and the notes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.games.monitor import GameMonitor, advice, monitors
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.matching import FlowMatching
from beeline.training.config import Training
from beeline.training.fit import fit

DATA = Batch(Rng(1).normal(torch.empty(128, 2)))


def network(seed: int = 0) -> Network:
    with Rng(seed).ambient():
        return Network(MLP(2, width=32, depth=2))


class Towards(nn.Module):
    """v = size m - z + size z: one jump from z ends at size (m + z)."""

    def __init__(self, size: float, m: float):
        super().__init__()
        self.size, self.m = nn.Parameter(torch.tensor(size)), nn.Parameter(torch.tensor(m))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.size * (self.m + x) - x


@pytest.fixture(scope="module")
def game() -> ScoreGame:
    """A teacher of the standard Gaussian."""
    net = fit(network(), FlowMatching(), DATA, Training(150, batch_size=128, ema=None, lr=3e-3), log=lambda e: None)
    return ScoreGame(Flow(net.requires_grad_(False)))


def test_the_lag_of_the_teacher_itself_is_one_and_that_of_a_fitted_network_small(game: ScoreGame) -> None:
    student = Towards(1.0, 2.0)
    monitor = GameMonitor(game, DATA, Rng(5), fit=80)
    fake = copy.deepcopy(game.teacher.field).requires_grad_(True)
    assert monitor.lag(student, fake, DATA) == pytest.approx(1.0)  # it has not followed at all
    optimizer = torch.optim.Adam(fake.parameters(), 1e-3)
    for k in range(200):
        optimizer.zero_grad()
        game.fake_loss(student, fake, DATA, Rng(9).fork(k)).value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert monitor.lag(student, fake, DATA) < 0.3
    assert all(p.requires_grad for p in (*student.parameters(), *fake.parameters()))


@pytest.mark.parametrize("size", [1.0, 0.3])
def test_the_spread_is_that_of_samples(game: ScoreGame, size: float) -> None:
    monitor = GameMonitor(game, DATA)
    found = monitor.evaluate(Towards(size, 0.0), None, 500)
    assert "lag" not in found  # no network follows yet
    assert found["spread"] == pytest.approx(size, rel=0.15)
    assert ("note" in found) == (size < 0.7) and (size == 1.0 or "it collapses; raise method.ratio" in found["note"])


def test_findings_and_notes_are_in_the_log(game: ScoreGame) -> None:
    entries: list[Any] = []
    training = Training(5, batch_size=16, ema=None, lr=1e-4)
    monitor = GameMonitor(game, DATA, every=2, fit=2)
    fit({"student": Towards(0.1, 0.0)}, game, DATA, training, callbacks=[monitor], log=entries.append)
    found = {e["step"]: e["game"] for e in entries if "game" in e}
    assert set(found) == {2, 4} and all(v["lag"] > 0 for v in found.values())
    assert [e["step"] for e in entries if "it collapses" in str(e.get("note"))] == [2, 4]


def test_checks_take_at_most_a_share_of_the_time(game: ScoreGame) -> None:
    monitor = GameMonitor(game, DATA, every=10)
    assert monitor.due(10, 100) and not monitor.due(11, 100) and not monitor.due(100, 100)
    assert not GameMonitor(game, DATA, every=10, held={"spent": 1e9}).due(10, 100)


def test_only_games_are_watched(game: ScoreGame) -> None:
    assert len(monitors(game, DATA, Rng(0))) == 1 and monitors(FlowMatching(), DATA, Rng(0)) == ()
    assert "lags behind" in advice({"spread": 1.0, "lag": 0.9})[0]
