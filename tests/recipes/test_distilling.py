"""Distillation and evaluation of bundles by one call."""

from pathlib import Path

import numpy as np
import pytest

import beeline as bl
from beeline.distillation.students import OneStep
from beeline.training.config import Training
from tests.recipes.test_training import slow

SHORT = Training(steps=20, batch_size=32)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> bl.Bundle:
    x = np.random.default_rng(0).normal(size=(80, 2))
    out = tmp_path_factory.mktemp("flow") / "run"
    return bl.train(x, np.array(["cat", "dog"])[np.arange(80) % 2], out=out, budget="1m", measure=slow)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_student_of_a_bundle(flow: bl.Bundle) -> None:
    student = flow.distill(OneStep(bl.Sampler(4)), training=SHORT)
    assert student.sampler.evaluations == 1 and student.lineage["parent"] == "runs/distilled-teacher"
    assert student.lineage["parent_weights"] == flow.weights
    assert set(student.sample(3, label="dog").labels) == {1}
    assert Path("runs/distilled/bundle/flow.json").is_file()
    other = bl.distill("runs/distilled-teacher", "Reflow(Sampler(4))", training=SHORT)
    assert other.sampler.evaluations == 4 and Path("runs/distilled-2").is_dir()


def test_a_student_within_a_budget(flow: bl.Bundle) -> None:
    said: list[str] = []
    flow.distill("OneStep(Sampler(4))", budget="1m", out="student", measure=slow, say=said.append)
    steps = len(Path("student/log.jsonl").read_text().splitlines())
    assert said[0].startswith(f"{steps} steps of 8 data") and 60 <= steps <= 36 / (2 * 0.6**3)
    with pytest.raises(bl.BeelineError, match="give at least"):
        flow.distill("OneStep(Sampler(4))", budget="5s", out="other", measure=slow)


def test_mistakes_are_refused_before_anything_is_written(flow: bl.Bundle) -> None:
    with pytest.raises(bl.BeelineError, match="did you mean 'OneStep'|valid names"):
        flow.distill("onestp")
    with pytest.raises(bl.BeelineError, match="give one of them"):
        flow.distill(budget="1m", training=SHORT)
    with pytest.raises(bl.BeelineError, match="does not record the data"):
        bl.Bundle(flow.flow, flow.sampler, flow.modality).distill()
    assert not list(Path().iterdir())


def test_scores_on_arrays_files_and_the_own_data(flow: bl.Bundle) -> None:
    x = np.random.default_rng(1).normal(size=(50, 2))
    report = flow.evaluate(x, ["dog"] * 50, n=40)  # as an array
    assert all(s.n_made == 40 and s.n_real == 50 for s in report.scores if s.baseline is not None)
    assert any(s.baseline is not None for s in report.scores)
    assert report.provenance["reference"] == "the given data"
    np.savez("test.npz", points=x, labels=np.array(["dog", "cat"] * 25))
    by_path = flow.evaluate("test.npz", n=5)
    assert "test.npz" in by_path.provenance["reference"] and by_path.provenance["n_real"] == 5
    assert repr(report).startswith("Report(") and "<pre" in report._repr_html_()
    with pytest.raises(bl.BeelineError, match="'cow' is a label that the model does not have"):
        flow.evaluate(x, ["cow"] * 50)
    with pytest.raises(bl.BeelineError, match="2 columns|3 columns"):
        flow.evaluate(np.zeros((5, 3)))
    with pytest.raises(bl.BeelineError, match="labels are part of a data set"):
        flow.evaluate("test.npz", [1])


def test_scores_do_not_need_the_training_data(flow: bl.Bundle, tmp_path: Path) -> None:
    lost = bl.Bundle(flow.flow, flow.sampler, flow.modality, {"data": {**flow.lineage["data"], "path": "gone.npz"}})
    report = lost.evaluate(np.random.default_rng(1).normal(size=(50, 2)), n=20)
    assert report.provenance["evaluators_learned_from"] == "the real data themselves"


def test_a_bundle_in_a_notebook_and_fresh_samples(flow: bl.Bundle) -> None:
    shown = flow._repr_html_()
    assert shown.count("<tr>") == len(flow.facts()) and "Points of shape (2,)" in shown and len(shown) < 1000
    first, second = (flow.sample(3, seed=None).values for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(flow.sample(3).values, flow.sample(3, seed=0).values)


def test_a_name_of_the_hub_without_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(bl.BeelineError, match="there is no directory ada/moons"):
        bl.load("ada/moons")
