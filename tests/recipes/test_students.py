"""The choice of a method by trials: tries, table, continuation of the best, and resuming."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.config import catalogue
from beeline.core.errors import BeelineError
from beeline.distillation.decoding import ParallelDecoding
from beeline.distillation.students import OneStep, Reflow
from beeline.recipes.students import automatic
from beeline.recipes.students.automatic import PAIRS, Trial, candidates, choose, try_method
from beeline.runs import run as runs
from beeline.runs.run import Distilled
from beeline.training.checks import Interrupted
from beeline.training.config import Training


def steady(*given: Any, **more: Any) -> float:
    """One second a step, so that a trial of 40 s has 24 steps."""
    return 1.0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 0.2]
    out = tmp_path_factory.mktemp("teacher") / "run"
    bl.train(x, out=out, budget="2m", measure=steady, log=None, live=False)
    return out


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods, and one that fails."""
    found = {"ParallelDecoding": ParallelDecoding(intervals=4), "OneStep": OneStep(bl.Sampler(2), count=32)}
    others = [Trial("PeRFlow", problem="no such number")]
    failing = {"Reflow": Reflow(bl.Sampler(2), count=32)}
    monkeypatch.setattr(automatic, "candidates", lambda k: (found | failing, others))


def train(run: Distilled, out: Path, *, resume: bool, fork: Path | None) -> bl.Bundle:
    if isinstance(run.method, Reflow):
        raise BeelineError("this one fails")
    return runs.train(run, out, resume=resume, fork=fork, log=None, live=False)


def test_the_best_of_the_trials_continues(teacher: Path, two: None, tmp_path: Path) -> None:
    said: list[str] = []
    run, out = Distilled(str(teacher), Reflow(), Training(ema=None, batch_size=32)), tmp_path / "out"
    found = choose(run, 1, "500s", out, train, device="cpu", say=said.append, measure=steady)
    by_name = {trial.method: trial for trial in found.trials}
    assert by_name["Reflow"].problem == "this one fails" and by_name["PeRFlow"].problem == "no such number"
    able = {name: trial.quality for name, trial in by_name.items() if trial.quality is not None}
    assert set(able) == {"ParallelDecoding", "OneStep"} and by_name["OneStep"].steps >= 20
    best = min(able, key=lambda name: able[name])
    line = found.bundle.lineage
    assert line["auto"]["chosen"] == best and line["made_by"] == f"distillations.{best}"
    assert [row["method"] for row in line["auto"]["trials"]][-1] == "teacher" and len(found.rows()) == 5
    log = (out / "log.jsonl").read_text()
    assert f"forked from {out / 'trials' / best / 'checkpoints'}" in log and '"step": 200,' in log
    assert any("continues" in text for text in said)
    with pytest.raises(BeelineError, match="holds trials of methods already"):
        choose(run, 1, "500s", out, train, device="cpu", measure=steady)


@pytest.mark.slow
def test_an_interrupted_choice_goes_on(teacher: Path, two: None, tmp_path: Path) -> None:
    run, out = Distilled(str(teacher), Reflow(), Training(ema=None, batch_size=32)), tmp_path / "out"
    trained: list[str] = []

    def stopping(run: Distilled, out: Path, *, resume: bool, fork: Path | None) -> bl.Bundle:
        trained.append(out.name)
        if out.name == "OneStep" and trained.count("OneStep") == 1:
            raise Interrupted("stopped", 3)
        return train(run, out, resume=resume, fork=fork)

    with pytest.raises(Interrupted, match="--resume"):
        choose(run, 1, "500s", out, stopping, device="cpu", measure=steady)
    with pytest.raises(BeelineError, match="other settings .evaluations was 1, is now 2"):
        choose(run, 2, "500s", out, stopping, device="cpu", resume=True, measure=steady)
    found = choose(run, 1, "500s", out, stopping, device="cpu", resume=True, measure=steady)
    assert trained.count("ParallelDecoding") == 1 and trained.count("OneStep") == 2 and trained.count("out") == 1
    again = choose(run, 1, "500s", out, stopping, device="cpu", resume=True, measure=steady)
    assert again.bundle.weights == found.bundle.weights and trained.count("out") == 1


def test_a_trial_that_is_continued_keeps_the_time_of_its_steps(teacher: Path, tmp_path: Path) -> None:
    run = Distilled(str(teacher), ParallelDecoding(intervals=4), Training(ema=None, batch_size=32))
    stored: list[Trial] = []

    def stopping(run: Distilled, out: Path, *, resume: bool, fork: Path | None) -> bl.Bundle:
        train(run, out, resume=resume, fork=fork)
        raise Interrupted("stopped", 3)

    def attempt(how: automatic.Train, begun: Trial | None) -> Trial:
        return try_method("A", run, tmp_path / "A", 40.0, how, torch.device("cpu"), steady, begun, stored.append)

    with pytest.raises(Interrupted, match="--resume"):
        attempt(stopping, None)
    found = attempt(train, stored[0])  # nothing of it is left to do, which takes no time
    assert found.step_seconds == 1.0 and found.seconds > found.steps == stored[0].steps and len(stored) == 1


def test_candidates_are_declared_and_fit_the_number_of_evaluations() -> None:
    every: dict[str, Any] = {n: getattr(bl.distillations, n) for n in catalogue.CATALOGUE["distillations"]}
    known = {n for n, cls in every.items() if not inspect.isfunction(cls) and cls.automatic}
    one, none = candidates(1)
    three, others = candidates(3)
    assert set(one) <= known and "ParallelDecoding" in one and not none
    assert {trial.method for trial in others} >= {"OneStep", "ParallelDecoding"} and "Reflow" in three
    assert three["Reflow"].count == PAIRS  # type: ignore[attr-defined]


def test_a_time_without_any_trial_leaves_nothing(teacher: Path, tmp_path: Path) -> None:
    run = Distilled(str(teacher), Reflow())
    with pytest.raises(BeelineError, match="no method could be tried within 10s: Reflow: a budget of 1 s is too short"):
        choose(run, 1, "10s", tmp_path / "out", train, device="cpu", measure=steady)
    assert not (tmp_path / "out").exists()


def test_auto_needs_a_time(teacher: Path) -> None:
    with pytest.raises(BeelineError, match="budget='30m'"):
        bl.distill(teacher, "auto")


def test_auto_is_refused_before_a_teacher_is_written(teacher: Path, tmp_path: Path) -> None:
    held, out = bl.load(teacher), tmp_path / "out"
    with pytest.raises(BeelineError, match="holds no trials"):
        bl.distill(held, "auto", budget="500s", out=out, resume=True)
    (out / "trials").mkdir(parents=True)
    with pytest.raises(BeelineError, match="holds trials of methods already"):
        bl.distill(held, "auto", budget="500s", out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
