"""Runs that are made longer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import beeline as bl
from beeline.cli.main import run as command
from beeline.data.point_files import PointFile
from beeline.objectives.matching import FlowMatching
from beeline.recipes.continuing import continuation, whole
from beeline.runs.run import Distilled, Run
from beeline.training import checkpoint
from beeline.training.config import Training
from beeline.training.early_stopping import EarlyStopping
from beeline.training.optim.learning_rate import Constant, WarmupConstantCooldown, WarmupCosine


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def points(path: str = "p.csv", seed: int = 0, names: str = "a,b") -> str:
    values = np.random.default_rng(seed).normal(size=(60, len(names.split(","))))
    np.savetxt(path, values, delimiter=",", header=names, comments="")
    return path


def run_of(lr: Any, steps: int = 10, **more: Any) -> Run:
    training = Training(steps=steps, batch_size=8, lr=lr, checkpoint_every=100, **more)
    return Run(PointFile(points()), {"is": "networks.MLP", "width": 8, "depth": 1}, FlowMatching(), training)


def weights(where: str) -> list[torch.Tensor]:
    return list(bl.load(where).flow.field.state_dict().values())


def same(a: str, b: str) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.mark.parametrize(
    ("lr", "start"), [(Constant(1e-2), 10), (WarmupConstantCooldown(1e-2, warmup=2, cooldown=0.4), 6)]
)
def test_a_longer_run_is_the_run_of_that_length_bit_for_bit(lr: Any, start: int) -> None:
    bl.train(run_of(lr), out="a")
    before = weights("a")
    found = continuation("a", 6)
    assert (found.start, found.before, found.exact, found.run.training.steps) == (start, 10, True, 16)
    bl.train("a", more=6)
    bl.train(run_of(lr, 16), out="b")
    assert same("a", "b") and not all(torch.equal(x, y) for x, y in zip(before, weights("a"), strict=True))
    assert len(Path("a/log.jsonl").read_text().splitlines()) == 16  # repeated steps are logged once
    assert yaml.safe_load(Path("a/run.yaml").read_text())["training"]["steps"] == 16
    bl.train("a", more="4")
    bl.train(run_of(lr, 20), out="c")
    assert same("a", "c")


def test_a_schedule_over_the_whole_run_restarts_from_the_last_checkpoint() -> None:
    bl.train(run_of(WarmupCosine(1e-2, warmup=2)), out="a")
    found = continuation("a", 10)
    assert (found.start, found.exact) == (10, False) and "warm restart" in found.summary()
    said: list[str] = []
    bl.train("a", more=10, say=said.append)
    assert said == [found.summary()] and checkpoint.number(checkpoint.newest(Path("a/checkpoints"))) == 20


def test_a_run_that_stopped_early_continues_beyond_its_end() -> None:
    stopping = EarlyStopping(1, every=2, min_delta=0.9)  # stops after two evaluations
    lr = WarmupConstantCooldown(1e-2, warmup=1, cooldown=0.5)
    bl.train(run_of(lr, 20, early_stopping=stopping), out="a")
    end = continuation("a", 1).before
    assert end < 20
    found = continuation("a", 20 - end)  # the number of steps that were planned at first
    assert found.run.training.steps == 21 and found.exact and found.start == 2
    bl.train("a", more=20 - end)
    log = Path("a/log.jsonl").read_text()
    assert "resumed from" in log and checkpoint.state(checkpoint.newest(Path("a/checkpoints")))["step"] < 20


def test_a_time_decides_the_steps() -> None:
    bl.train(run_of(WarmupConstantCooldown(1e-2, warmup=2, cooldown=0.4)), out="a")
    found = continuation("a", "1m", measure=lambda *a, limit: 2.0)
    assert 10 + 6 <= found.run.training.steps <= 6 + 18  # 18 steps of 2 s from step 6 on
    with pytest.raises(
        bl.BeelineError, match="4 steps are made again, whose learning rate fell; give at least 1[78] s"
    ):
        continuation("a", "5s", measure=lambda *a, limit: 2.0)


def test_other_data_make_a_new_run_and_leave_the_old_one() -> None:
    bl.train(run_of(Constant(1e-2)), out="a")
    points("new.csv", seed=1)
    old = {p: p.read_bytes() for p in Path("a").rglob("*") if p.is_file() and p.name != ".lock"}
    flow = bl.train("a", more=5, data="new.csv")
    assert all(p.read_bytes() == content for p, content in old.items())
    assert flow.modality == bl.load("a").modality and flow.lineage["data"]["path"] == "new.csv"
    assert not same("a", "a-2") and len(Path("a-2/log.jsonl").read_text().splitlines()) == 5
    bl.train("a-2", more=5)  # and is an ordinary run
    bl.train("a", more=10, data="new.csv", out="b")
    assert same("a-2", "b")


def test_data_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    bl.train(run_of(Constant(1e-2)), out="a")
    points("other.csv", names="a,c")
    with pytest.raises(bl.BeelineError, match="columns a, c, but the modality has a, b"):
        bl.train("a", more=5, data="other.csv")
    np.savez("i.npz", images=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(bl.BeelineError, match="is no file of points|holds|give data of the same"):
        bl.train("a", more=5, data="i.npz")
    with pytest.raises(bl.BeelineError, match="Points data, but Digits holds Image data"):
        bl.train("a", more=5, data="Digits()")
    assert not Path("a-2").exists()


def test_a_student_is_made_longer() -> None:
    bl.train(run_of(Constant(1e-2)), out="a")
    run = Distilled("a", bl.OneStep(bl.Sampler(2)), Training(steps=4, batch_size=8, lr=1e-3))
    bl.train(run, out="d")
    bl.train("d", more=3)
    bl.train(replace(run, training=replace(run.training, steps=7)), out="e")
    assert same("d", "e")
    with pytest.raises(bl.BeelineError, match="is a distillation, whose data are those of its teacher"):
        bl.train("d", more=3, data=points("new.csv"))


@pytest.mark.parametrize("more", ["0", "-5", "1.5", "2_000", True, 10**12])
def test_numbers_of_steps(more: Any) -> None:
    with pytest.raises(bl.BeelineError, match="no number of steps and no time|no duration"):
        whole(more) if more is not True else continuation_of_nothing(more)


def continuation_of_nothing(more: Any) -> None:
    bl.train(run_of(Constant(1e-2), 1), out="a")
    continuation("a", more)


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, match in (
        ({"what": "nowhere", "more": 3}, "is no run"),
        ({"what": "nowhere", "data": "x.csv"}, "without more="),
        ({"what": np.zeros((4, 2)), "more": 3}, "give its path alone"),
        ({"what": "nowhere", "more": 3, "budget": "1m"}, "without labels and budget"),
    ):
        with pytest.raises(bl.BeelineError, match=match):
            bl.train(**arguments)
    assert command(["train", "nowhere", "--more", "3", "--budget", "1m"]) == 2
    assert "--budget was given beside --more" in capsys.readouterr().err


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    bl.train(run_of(Constant(1e-2)), out="a")
    assert command(["train", "a", "--more", "5", "--no-report"]) == 0
    assert "the run of 10 steps continues from step 10 to 15" in capsys.readouterr().err
    bl.train(run_of(Constant(1e-2), 15), out="b")
    assert same("a", "b")
    points("new.csv", seed=1)
    assert command(["train", "a", "--more", "5", "--data", "new.csv", "--no-report"]) == 0
    assert Path("a-2/bundle/flow.json").is_file()
    assert command(["train", "a", "--more", "soon"]) == 2
