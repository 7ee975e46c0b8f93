"""Pairs of a bundle as a job, and students that learn from them."""

import shutil
from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.cli.main import run as command
from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.data.point_files import DistributionData
from beeline.distillation.pairs import reflow_pairs
from beeline.distillation.store.filters import Nearest
from beeline.distillation.store.reading import pair_key
from beeline.runs.budget import fit_distillation
from beeline.runs.pairs.agreeing import Agreeing
from beeline.runs.pairs.job import pairs, prepared
from beeline.runs.pairs.opening import open_pairs
from beeline.runs.run import Distilled, Run, train
from beeline.training.checks import Interrupted
from beeline.training.config import Training

FEW = Training(steps=2, batch_size=8, checkpoint_every=2)
MORE = Training(steps=4, batch_size=8, checkpoint_every=2)
SAMPLER = bl.Sampler(2)


def quiet(entry):
    """A log function that does nothing."""


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """The folders of a conditional and of an unconditional teacher."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, labelled in (("labelled", True), ("plain", False)):
        data = DistributionData(GaussianMixture.ring(labelled=labelled), n=64, kept=16)
        drop = bl.Drop(0.1) if labelled else None
        objective = bl.objectives.FlowMatching(drop=drop)
        recipe = Run(data, {"is": "networks.MLP", "width": 8, "depth": 1}, objective, FEW, bl.Sampler(2))
        train(recipe, folder / name, log=quiet, live=False)
    return folder


def test_the_pairs_of_a_bundle_are_those_of_its_sampler(teachers, tmp_path):
    bundle, lines = bl.load(teachers / "labelled"), []
    guided = bl.Sampler(3, guidance=bl.CFG(2.0))
    store = pairs(bundle, 40, tmp_path / "p", sampler=guided, shard_size=12, say=lines.append)
    batch = store.take(torch.arange(40))
    wanted = reflow_pairs(bundle.flow, guided, batch.cond, pair_key(0), like=batch.x1)
    assert torch.allclose(batch.x1, wanted.x1, atol=1e-5) and torch.equal(batch.x0, wanted.x0)
    assert [line.split()[0] for line in lines] == ["pairs", "disk", "memory", "time", "1", "2", "3", "4"]
    assert "40 in 4 shards, 3 steps, 12 evaluations" in lines[0]
    notes = store.manifest.notes
    assert notes["kept"] == 40 and notes["drift"]["distance"] > 0.1 and abs(notes["drift"]["real"]) < 1
    again = pairs(teachers / "labelled", 40, tmp_path / "p", sampler=guided, shard_size=12, say=lines.append)
    assert lines[-1] == "all pairs are there" and torch.equal(again.take(torch.arange(40)).x1, batch.x1)
    opened = open_pairs(tmp_path / "p", bundle, seed=3)
    assert opened.sampler == guided and opened.microbatch(2, 8).x1.shape == (8, 2)
    with pytest.raises(BeelineError, match="another|weights"):
        open_pairs(tmp_path / "p", bl.load(teachers / "plain"))


def test_conditions_that_are_given_take_turns(teachers, tmp_path):
    bundle = bl.load(teachers / "labelled")
    same = pairs(bundle, 9, tmp_path / "a", cond={"label": 3}, trial=False)
    assert same.head(9).cond["label"].tolist() == [3] * 9
    turns = pairs(bundle, 9, tmp_path / "b", cond={"label": [1, 2, 3]}, trial=False)
    assert turns.head(9).cond["label"].bincount().tolist() == [0, 3, 3, 3]
    even = pairs(bundle, 16, tmp_path / "c", balanced=True, trial=False, seed=5)
    assert even.head(16).cond["label"].bincount().tolist() == [2] * 8
    assert not torch.equal(even.head(16).x0, pairs(bundle, 16, tmp_path / "d", balanced=True, trial=False).head(16).x0)
    # about one in eight samples of the untrained flow has the label of its condition
    chosen = pairs(bundle, 128, tmp_path / "e", filters=(Nearest(0.75), Agreeing()), trial=False, shard_size=64)
    assert 0 < len(chosen) <= 96


def test_what_cannot_work_is_refused_before_anything_is_written(teachers, tmp_path, monkeypatch):
    labelled, plain = bl.load(teachers / "labelled"), bl.load(teachers / "plain")
    out = tmp_path / "p"
    for message, bundle, more in (
        ("nothing to be guided by", plain, {"sampler": bl.Sampler(2, guidance=bl.CFG(2.0))}),
        ("nothing to balance", plain, {"balanced": True}),
        (
            "adds noise",
            plain,
            {"sampler": bl.Sampler(2, solver=config.parse("EulerMaruyama(White(Rng(0)))", "solvers"))},
        ),
        ("one of float64, float32", plain, {"dtype": "int8"}),
        ("no count", plain, {"n": 0}),
        ("shard_size=0", plain, {"shard_size": 0}),
        ("does not record the data", replace(labelled, lineage={}), {}),
        ("could not be loaded", replace(labelled, lineage={"data": {"is": "data.PointFile", "path": "gone.csv"}}), {}),
    ):
        with pytest.raises(BeelineError, match=message):
            pairs(bundle, more.pop("n", 4), out, **more)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 50, 50))
    with pytest.raises(BeelineError, match="where 50 B are free; free some space"):
        pairs(plain, 400, out)
    assert not out.exists()
    monkeypatch.undo()
    given = pairs(replace(labelled, lineage={}), 4, tmp_path / "given", cond={"label": 1}, trial=False)
    assert "drift" not in given.manifest.notes
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BeelineError, match=r"other files \(notes.txt\)"):
        pairs(plain, 4, out)
    pairs(plain, 4, tmp_path / "q", trial=False)
    with pytest.raises(BeelineError, match="seed was 0, is now 1"):
        pairs(plain, 4, tmp_path / "q", seed=1)
    with pytest.raises(BeelineError, match="sampler.steps was 2, is now 3"):
        pairs(plain, 4, tmp_path / "q", sampler=bl.Sampler(3))


def test_an_interrupted_job_continues(teachers, tmp_path):
    bundle = bl.load(teachers / "plain")

    def stop(text):
        if text.startswith("2 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairs(bundle, 20, tmp_path / "p", shard_size=5, say=stop, trial=False)
    with pytest.raises(BeelineError, match="2 of 4 shards"):
        open_pairs(tmp_path / "p")
    job = prepared(bundle, 20, tmp_path / "p", shard_size=5)
    assert job.plan(trial=False).pairs == 10 and job.plan().seconds > 0
    whole = pairs(bundle, 20, tmp_path / "whole", shard_size=5, trial=False)
    assert torch.equal(pairs(bundle, 20, tmp_path / "p", shard_size=5, trial=False).head(20).x1, whole.head(20).x1)


@pytest.fixture(scope="module")
def stored(teachers):
    pairs(teachers / "labelled", 64, teachers / "pairs", sampler=SAMPLER, trial=False)
    return str(teachers / "pairs")


def weights(folder):
    return [p.clone() for p in bl.load(folder).flow.field.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_a_student_of_stored_pairs_resumes_exactly(teachers, stored, tmp_path):
    method = bl.Reflow(store=stored, real=0.25, reverse=0.2, anneal=2)
    run = Distilled(str(teachers / "labelled"), method, MORE)
    train(run, tmp_path / "whole", log=quiet, live=False)

    def stop(entry):
        if entry.get("step") == 2 and "loss" in entry:
            raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(run, tmp_path / "cut", log=stop, live=False)
    train(run, tmp_path / "cut", resume=True, log=quiet, live=False)
    assert equal(tmp_path / "whole", tmp_path / "cut")
    lineage = bl.load(tmp_path / "whole").lineage
    assert lineage["rounds"][0]["straightness"] >= 0 and lineage["rounds"][0]["drift"]["distance"] > 0


def test_stored_pairs_of_another_teacher_are_refused_by_a_distillation(teachers, stored, tmp_path, capsys):
    code = command(["distill", str(teachers / "plain"), "OneStep", "--set", f"method.store={stored}", "--out",
                    str(tmp_path / "out")])  # fmt: skip
    assert code == 2 and "pairs of a teacher with the weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for wrong in ({"online": True}, {"count": 5}, {"reverse": 1.0}):
        with pytest.raises(BeelineError, match="got"):
            bl.Reflow(store=stored, **wrong)
    with pytest.raises(BeelineError, match="no pairs.json"):
        train(Distilled(str(teachers / "plain"), bl.OneStep(store="nowhere"), FEW), tmp_path / "out", log=quiet)


def test_pairs_of_the_moment_and_one_step_students(teachers, stored, tmp_path):
    for name, method in (("online", bl.Reflow(SAMPLER, online=True, real=0.5)), ("one", bl.OneStep(store=stored))):
        bundle = train(Distilled(str(teachers / "labelled"), method, FEW), tmp_path / name, log=quiet, live=False)
        assert bundle.flow.independent is False and len(bundle.lineage["rounds"]) == 1
    assert "straightness" not in bundle.lineage["rounds"][0]


def test_rounds_are_those_of_as_many_runs(teachers, tmp_path):
    method = bl.Reflow(SAMPLER, rounds=2)
    twice = train(Distilled(str(teachers / "plain"), method, FEW), tmp_path / "twice", log=quiet, live=False)
    one = bl.Reflow(SAMPLER)
    train(Distilled(str(teachers / "plain"), one, FEW), tmp_path / "one", log=quiet, live=False)
    train(Distilled(str(tmp_path / "one"), one, FEW), tmp_path / "two", log=quiet, live=False)
    assert equal(tmp_path / "twice" / "rounds" / "1", tmp_path / "one") and equal(tmp_path / "twice", tmp_path / "two")
    assert len(twice.lineage["rounds"]) == 2 and twice.lineage["parent"] == str(tmp_path / "twice" / "rounds" / "1")


def test_rounds_share_a_budget(teachers):
    run = Distilled(str(teachers / "plain"), bl.Reflow(SAMPLER), MORE)
    twice = replace(run, method=bl.Reflow(SAMPLER, rounds=3))
    one, three = (
        fit_distillation(r, 600.0, torch.device("cpu"), measure=lambda *a, **k: 0.1).run.training.steps
        for r in (run, twice)
    )
    assert 0.2 < three / one < 0.35


def test_a_budget_too_short_names_pairs_only_where_they_are_made(teachers):
    def refused(method):
        run = Distilled(str(teachers / "plain"), method, FEW)
        with pytest.raises(BeelineError, match="too short.*give at least") as error:
            fit_distillation(run, 1.0, torch.device("cpu"), measure=lambda *a, **k: 0.1)
        return str(error.value)

    assert "fewer pairs by the setting count" in refused(bl.Reflow(SAMPLER))
    for other in (bl.distillations.MeanFlow(), bl.Reflow(SAMPLER, online=True)):
        assert "count" not in refused(other) and "pairs" not in refused(other)


def test_a_slow_first_trial_does_not_decide_the_expected_time(teachers, tmp_path, monkeypatch):
    job = prepared(bl.load(teachers / "plain"), 1000, tmp_path / "p")
    seconds, counts = [0.1, 30.0, 0.01, 0.08, 0.64, 2.56], []

    def trial(maker, count):
        counts.append(count)
        return seconds[len(counts) - 1]

    monkeypatch.setattr(type(job.make), "trial", trial)
    assert job.plan().seconds == pytest.approx(2.56 * 1000 / counts[-1])
    assert counts[:5] == [1, 2, 2, 16, 128] and counts[-1] == 1000


@pytest.mark.slow
def test_rounds_continue_where_they_were_interrupted(teachers, tmp_path):
    method = bl.Reflow(SAMPLER, rounds=2)
    train(Distilled(str(teachers / "plain"), method, MORE), tmp_path / "twice", log=quiet, live=False)

    def stop(entry):
        if entry.get("step") == 2 and "loss" in entry:
            raise KeyboardInterrupt

    run = Distilled(str(teachers / "plain"), method, MORE)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(run, tmp_path / "cut", log=stop, live=False)
    train(run, tmp_path / "cut", log=quiet, live=False)
    assert equal(tmp_path / "twice", tmp_path / "cut")


def test_the_command(teachers, tmp_path, capsys):
    out = str(tmp_path / "p")
    words = ["pairs", str(teachers / "labelled"), "-n", "30", "--out", out, "--set", "sampler.steps=2", "--filter",
             "Nearest(0.5)", "--condition", "label=3"]  # fmt: skip
    assert command([*words, "--plan"]) == 0
    assert "30 in 1 shards" in capsys.readouterr().out and not (tmp_path / "p").exists()
    assert command(words) == 0 and command(words) == 0
    shown = capsys.readouterr()
    assert "kept  15" in shown.out and f"method.store={out}" in shown.out and "all pairs are there" in shown.err
    assert command([*words, "--json"]) == 0 and '"kept": 15' in capsys.readouterr().out
    assert command([*words, "--seed", "1"]) == 2 and "seed was 0, is now 1" in capsys.readouterr().err
    assert command([*words, "--filter", "Furthest"]) == 2
