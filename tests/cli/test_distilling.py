"""The command distill: what a student records and its report shows, and refusals before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import beeline as bl
from beeline.cli import commands
from beeline.cli import main as cli
from beeline.cli.report import measuring, students
from beeline.cli.report.measuring import Budget
from beeline.cli.report.students import FEWEST, LABELS, MOST, compared, taught
from beeline.cli.verbs import distilling
from beeline.distillation.maps.presets import MeanFlow
from beeline.distillation.students import OneStep
from beeline.fields.flow import Network
from beeline.networks.mlp import MLP
from beeline.runs.bundle import load, relabel
from beeline.runs.run import train as train_run
from beeline.runs.teachers import check_teacher
from beeline.sampling.guidance.guide import CFG, Plain
from beeline.training.checks import Interrupted

TINY = ["training.steps=2", "training.batch_size=16"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and a student of it with its report."""
    folder = tmp_path_factory.mktemp("distilling")
    run = commands.recipe("two-moons", [*TINY, "network.width=8", "sampler.steps=2", "data.n=300", "data.kept=120"])
    commands.train(run, folder / "teacher", resume=False, quiet=True, command="", report=False)
    student = commands.distillation(str(folder / "teacher"), "ParallelDecoding", TINY, evaluations=2)
    commands.train(student, folder / "student", resume=False, quiet=True, command="")
    return folder


def lineage(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bundle" / "flow.json").read_text())["lineage"]
    return found


def test_a_student_records_its_teacher_method_grid_and_both_qualities(place: Path) -> None:
    found, teacher = lineage(place / "student"), load(place / "teacher")
    assert found["parent_weights"] == teacher.weights and found["parent"] == str(place / "teacher")
    assert found["method"]["is"] == "distillations.ParallelDecoding" and found["method"]["most"] == 2
    assert found["evaluations"] == 2 and found["grid"] == [0.0, 0.5, 1.0]
    assert found["guidance"] == {"is": "guidance.Plain"}
    assert list(found["quality"]) == ["teacher", "student"]
    assert set(found["quality"]["student"]) <= set(found["quality"]["teacher"])
    assert set(found["likeness"]) >= {"pairing", "spread", "recall", "coverage"}


def test_the_report_shows_both_from_the_same_noise(place: Path) -> None:
    page = (place / "student" / "report.html").read_text(encoding="utf-8")
    assert "Student and teacher" in page and "Distance from the teacher" in page
    assert "its heads were trained" not in page  # no sampler is tried that the student refuses


def test_the_comparison_takes_fewer_samples_where_the_time_is_short(place: Path) -> None:
    student, teacher = load(place / "student"), load(place / "teacher")
    found = compared(student, teacher, Budget())
    assert len(found.student) == MOST and found.found.n == MOST
    assert torch.equal(found.teacher, teacher.draw(teacher.start(range(MOST)), teacher_condition(teacher)))
    assert len(compared(teacher, teacher, Budget()).student) in (FEWEST, MOST)
    assert compared(teacher, teacher, Budget()).found.pairing == 0


def test_many_labels_leave_several_samples_of_each(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, seen = load(place / "student"), []

    def condition(modality: Any, labels: list[int], n: int) -> None:  # the network takes none
        seen.append(torch.tensor(labels))

    monkeypatch.setattr(type(student.modality), "condition", condition)
    for module in (measuring, students):
        monkeypatch.setattr(module, "label_count", lambda bundle: 300)
    found = compared(student, student, Budget()).found
    assert found.pairing == 0 and found.spread == 1
    assert int(torch.bincount(seen[0]).min()) >= MOST // LABELS


def teacher_condition(teacher: Any) -> Any:
    from beeline.cli.report.measuring import every_label

    return every_label(teacher, MOST)


def test_the_teacher_is_sampled_with_the_guidance_that_the_student_has_learned(place: Path) -> None:
    student, teacher = load(place / "student"), load(place / "teacher")
    guided = relabel(student, guidance={"is": "guidance.CFG", "scale": 2.0, "null": 2})
    assert taught(student, teacher).guidance == Plain()
    assert taught(guided, teacher).guidance == CFG(2.0, 2)
    assert taught(guided, teacher).steps == teacher.sampler.steps


def test_a_report_without_its_teacher_shows_the_student_alone(place: Path, tmp_path: Path) -> None:
    student = commands.distillation(str(place / "teacher"), "one-step", [*TINY, "method.count=32"])
    made = bl.distill(place / "teacher", "one-step", out=tmp_path / "s", training=student.training, log=None)
    from beeline.cli.report.writing import report_run

    report_run(tmp_path / "s", relabel(made, parent="nowhere"), command="")
    assert "Student and teacher" not in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")


def test_a_rehearsal_does_everything_at_toy_size_and_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[tuple[int, int]] = []
    real = train_run

    def watched(run: Any, out: Path, **more: Any) -> Any:
        assert not str(out).startswith(str(tmp_path))
        stages.append((run.training.steps, run.training.batch_size))
        return real(run, out, **more)

    monkeypatch.setattr(distilling, "train_run", watched)
    run = commands.distillation(str(place / "teacher"), "one-step", ["training.steps=9000", "training.batch_size=64"])
    distilling.rehearse(run, distilling.How("", torch.device("cpu"), quiet=True, report=False))
    assert stages == [(distilling.STEPS, distilling.BATCH), (distilling.STEPS + 2, distilling.BATCH)]
    assert distilling.toy_of(run).method.count == 64  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


def test_a_failing_rehearsal_stops_before_the_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*given: Any, **more: Any) -> Any:
        raise bl.BeelineError("the disk is full")

    monkeypatch.setattr(distilling, "train_run", fails)
    words = ["distill", str(place / "teacher"), "one-step", "--rehearse", "--out", str(tmp_path / "out")]
    assert cli.run(words) == 2
    assert "the disk is full" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert cli.run([*words, "--budget", "soon"]) == 2
    assert "is no duration" in capsys.readouterr().err  # before the rehearsal
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert cli.run(words) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["auto"], "give one, for example --budget 30m"),
        (["auto", "--budget", "5m", "--rehearse"], "leave it out"),
        (["auto", "--budget", "5m", "--set", "method.count=3"], "default settings"),
        (["ParallelDecoding", "--evaluations", "3"], "a divisor of 32"),
        (["one-step", "--evaluations", "2"], "evaluations"),
        (["MeanFlow", "--set", "method.guidance=CFG(2.0)"], "guidance that it does not have"),
        (["Reflow(Sampler(4, guidance=CFG(2.0)))"], "guidance that it does not have"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.run(["distill", str(place / "teacher"), *words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and "Traceback" not in error
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_network_without_a_second_time_is_refused_by_flow_maps() -> None:
    with pytest.raises(bl.BeelineError, match="takes no second time"):
        MeanFlow().networks(bl.Flow(Network(OneTime(2))))


class OneTime(MLP):
    """A backbone whose description has no setting for a second time."""

    def describe(self) -> dict[str, Any]:
        return {k: v for k, v in super().describe().items() if k != "span"}


def test_a_student_for_fixed_times_is_no_teacher_of_methods_that_need_all(place: Path) -> None:
    student = load(place / "student")
    held = bl.Batch(torch.zeros(4, 2), cond={"label": torch.zeros(4, dtype=torch.long)})
    with pytest.raises(bl.BeelineError, match="was trained for the times"):
        check_teacher(student, MeanFlow(), held, "student")
    check_teacher(student, OneStep(student.sampler), held, "student")


def test_a_network_of_another_origin_has_to_fit_its_data() -> None:
    exact = bl.distributions.GaussianMixture([[0.0, 1.0], [2.0, -1.0]], 0.5)
    held = bl.Batch(exact.sample_labelled(512, bl.Rng(0), None)[0])
    wrong = bl.Flow(lambda x, t, cond=None: -exact.field()(x, 1 - t))  # the other direction of time
    check_teacher(bl.Bundle(bl.Flow(exact.field())), MeanFlow(), held, "it")
    with pytest.raises(bl.BeelineError, match="its velocities do not fit its data"):
        check_teacher(bl.Bundle(wrong), MeanFlow(), held, "it")
    check_teacher(bl.Bundle(wrong, lineage={"made_by": "train"}), MeanFlow(), held, "it")


def test_an_interrupted_choice_says_how_to_continue(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops(*given: Any, **more: Any) -> Any:
        raise Interrupted("stopped after step 3", 3)

    monkeypatch.setattr(distilling, "choose", stops)
    words = ["distill", str(place / "teacher"), "auto", "--budget", "5m", "--out", str(tmp_path / "out")]
    assert cli.run(words) == 130
    assert "--budget 5m --resume" in capsys.readouterr().err
