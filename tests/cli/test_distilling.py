"""The command distill: what a student records and its report shows, and refusals before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import beeline as bl
from beeline.cli import commands
from beeline.cli.report.measuring import Budget
from beeline.cli.report.students import FEWEST, MOST, compared, taught
from beeline.runs.bundle import load, relabel
from beeline.sampling.guidance.guide import CFG, Plain

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
