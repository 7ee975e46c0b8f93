"""Distillations by score games: whole runs from a small teacher, by the command and in Python."""

import json

import pytest
import torch

import beeline as bl
from beeline.cli.main import run
from beeline.config import build as config
from beeline.config.entries import GAME_DISTILLATIONS
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.paths.affine import Polynomial
from beeline.recipes import images
from beeline.runs.bundle import load
from beeline.runs.run import Distilled, train
from beeline.training.config import Training
from beeline.training.plan import step_seconds

SHORT = Training(steps=3, batch_size=8)


def quiet(entry):
    pass


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The digits with labels that are dropped at times, so that guidance is possible."""
    out = tmp_path_factory.mktemp("games") / "teacher"
    small = {"training.steps": 3, "training.batch_size": 8, "network.width": 16, "network.depth": 2}
    train(config.change(images.digits(), {**small, "objective.drop": "Drop(0.1)"}), out, log=quiet)
    return out


def method(name):
    return config.parse(name, "distillations")


@pytest.mark.parametrize("name", GAME_DISTILLATIONS)
def test_every_game_trains_a_student_whose_bundle_holds_it_alone(name, teacher, tmp_path):
    how = method(name)
    student = train(Distilled(str(teacher), how, SHORT), tmp_path / "student", log=quiet)
    again = load(tmp_path / "student")
    assert student.sampler.evaluations == again.sampler.evaluations <= 4
    known, mine = (sum(p.numel() for p in load(b).flow.field.parameters()) for b in (teacher, tmp_path / "student"))
    assert known == mine
    labels = {"label": torch.arange(4)}
    made = again.draw(again.start(range(4)), labels)
    assert torch.isfinite(made).all()
    log = [json.loads(line) for line in (tmp_path / "student/log.jsonl").read_text().splitlines()]
    assert "heldout" in log[-1] and log[-1]["heldout"]["ema"]["value"] > 0
    assert list((tmp_path / "student/samples").glob("*.png"))  # previews of the student
    with pytest.raises(BeelineError, match="not independent"):
        again.flow.score(made, torch.full((4,), 0.5), labels)


def test_the_whole_command(teacher, tmp_path, capsys):
    short = ["--no-report", "--set", "training.steps=2", "--set", "training.batch_size=8"]
    many = ["distill", str(teacher), "DMD(guidance=CFG(2.0))", "--evaluations", "3", "--out", str(tmp_path / "three")]
    assert run([*many, *short]) != 0
    assert "its student takes one" in capsys.readouterr().err
    guided = ["distill", str(teacher), "DMD2(guidance=CFG(2.0))", "--evaluations", "2", "--out", str(tmp_path / "two")]
    assert run([*guided, *short]) == 0
    made = bl.load(tmp_path / "two")
    assert made.sampler.evaluations == 2 and made.flow.null == {}
    assert len(made.sample(2, cond={"label": torch.tensor([1, 2])}, seed=0)) == 2


def test_a_budget_is_measured_with_all_networks(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def measured(*given, **more):
        seen.append(step_seconds(*given[:-1], 2))
        return 10.0

    with pytest.raises(BeelineError, match="give at least"):
        bl.distill(str(teacher), "DMD", budget="5s", measure=measured)
    assert seen and seen[0] > 0


def test_teachers_that_a_game_cannot_take_are_refused():
    net = Network(MLP(2, width=8, depth=1), Polynomial(2))
    with pytest.raises(BeelineError, match="slope at t = 0"):
        method("DMD").objective(Flow(net, Polynomial(2)))
    game = method("DMD(guidance=CFG(2.0))").objective(Flow(net, null={}))
    with pytest.raises(BeelineError, match="condition dropout"):
        game.student_loss(net, net, None, Batch(torch.zeros(2, 2)), Rng(0))
