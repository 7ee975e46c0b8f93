"""The few-step benchmark: counted passes, planned steps, resuming and the page."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.core.modes import device_of, moved
from beeline.core.protocols.training import Distillation
from beeline.core.types import take
from beeline.distillation.finetune import PeRFlow
from beeline.training import checkpoint
from benchmarks import fewstep
from benchmarks.fewstep_parts import costs, page, picture, store, students, worlds
from benchmarks.fewstep_parts.methods import Row, rows
from benchmarks.fewstep_parts.passes import Passes
from benchmarks.fewstep_parts.worlds import Size, World
from tests.second_device import DEVICE, MixedDevicesError, second_device

TINY = Size(teacher_steps=4, batch=8, lr=1e-3, budget=1600, samples=30, classifier=4, features=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return worlds.images("digits", worlds.digits(), 0, tmp_path_factory.mktemp("models"), TINY)


def test_a_forward_pass_counts_one_and_a_backward_pass_two() -> None:
    flow, batch = costs.teacher(), take(costs.data(), torch.arange(3))
    net, t, n = flow.field, torch.full((len(batch.x1),), 0.3), len(batch.x1)

    def passes(run: Any) -> float:
        with Passes(flow, batch.x1[:1], {"label": torch.zeros(1, dtype=torch.long)}) as counted:
            run()
        return counted.count / n

    def forward() -> torch.Tensor:
        return net(batch.x1, t, batch.cond)

    with torch.no_grad():
        assert passes(forward) == pytest.approx(1, abs=1e-9)
    # 5 percent for attention, whose backward pass computes its weights again
    assert passes(lambda: forward().sum().backward()) == pytest.approx(3, rel=0.05)
    step = torch.ones_like(t)
    derivative = lambda: torch.func.jvp(lambda x, t: net(x, t, batch.cond), (batch.x1, t), (batch.x1, step))  # noqa: E731
    with torch.no_grad():
        assert passes(derivative) == pytest.approx(3, rel=0.05)
    with pytest.raises(BeelineError, match="no matrix product"):
        Passes(bl.Flow(lambda x, t, cond=None: -x), torch.zeros(1, 2))


def test_passes_are_counted_on_the_device_of_the_teacher() -> None:
    label = {"label": torch.zeros(1, dtype=torch.long)}  # as the data of a world, on the CPU
    expected = Passes(costs.teacher(), costs.data().x1[:1], label).unit
    with second_device():
        flow = moved(costs.teacher(), DEVICE)
        assert device_of(flow) == DEVICE
        with pytest.raises(MixedDevicesError):
            flow.field(costs.data().x1[:1].to(DEVICE), torch.zeros(1).to(DEVICE), label)
        assert Passes(flow, costs.data().x1[:1], label).unit == expected


def test_the_passes_of_teacher_and_pairs_are_in_the_plan(world: World) -> None:
    plan = students.planned(bl.OneStep(bl.Sampler(2)), world, world.teacher, bl.Rng(0))
    assert plan.for_data == pytest.approx(4 * plan.rows, rel=1e-6) and plan.rows == 0.5 * TINY.budget / 4
    assert plan.for_step / TINY.batch == pytest.approx(3, rel=0.05)
    spent = plan.for_data + plan.steps * plan.for_step
    assert TINY.budget - plan.for_step < spent <= TINY.budget

    teaching = students.planned(PeRFlow(2, steps=1), world, world.teacher, bl.Rng(0))
    assert teaching.for_data == 0 and teaching.rows == len(world.data.x1)
    assert teaching.for_step / TINY.batch == pytest.approx(3 + 2, rel=0.05)  # a Heun step of the teacher
    small = replace(world, size=replace(TINY, budget=300))
    with pytest.raises(BeelineError, match="larger --budget"):
        students.planned(PeRFlow(2, steps=1), small, world.teacher, bl.Rng(0))


def test_pairing_is_zero_for_the_ends_of_the_teacher_and_one_for_others(world: World) -> None:
    assert world.pairing(world.ends) == 0
    others = world.ends.clone()
    for label in range(10):
        rows = torch.nonzero(world.cond["label"] == label)[:, 0]
        others[rows] = world.ends[rows.roll(2)]
    assert world.pairing(others) == pytest.approx(1)  # of three samples a label, all differences are compared


def test_a_stopped_student_continues_to_the_same_figures(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(students, "EVALUATIONS", (1,))
    text = Row("OneStep(Sampler(1))")
    whole = students.measure(text, world, 0, tmp_path / "whole")

    def stopping(*args: Any, **more: Any) -> Any:
        def log(entry: dict[str, Any]) -> None:
            if entry["step"] == 3 and "loss" in entry:
                raise KeyboardInterrupt

        return bl.training.fit.fit(*args, **{**more, "log": log})

    with monkeypatch.context() as patched:
        patched.setattr(students.bl, "fit", stopping)
        with pytest.raises(KeyboardInterrupt):
            students.measure(text, world, 0, tmp_path / "stopped")
    (left,) = tmp_path.glob("stopped-*")
    assert [checkpoint.number(path) for path in checkpoint.steps(left)] == [3]
    again = students.measure(text, world, 0, tmp_path / "stopped")
    assert again["evaluations"] == whole["evaluations"] and again["steps"] == whole["steps"] > 3
    assert not list(tmp_path.glob("*-*/"))


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> dict[str, Any]:
    words = ["fewstep", "digits", "--models", str(folder), "--output", str(folder / "out.json"), *more]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(worlds, "DIGITS", TINY)
    monkeypatch.setattr(worlds, "FINE", 1)
    monkeypatch.setattr(students, "EVALUATIONS", (1, 2, 8))
    fewstep.main()
    return store.read(folder / "out.json")["digits"]


@pytest.mark.slow
def test_rows_are_written_one_by_one_and_skipped_the_next_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = "ParallelDecoding(most=2, intervals=4)"
    found = run(monkeypatch, tmp_path, "--method", method)
    row = found[method]["0"]
    assert set(found) == {"teacher", method} and {"recall", "coverage", "agreement"} <= set(row["evaluations"]["1"])
    assert "distance" in row["evaluations"]["2"] and "refused" in row["evaluations"]["8"]
    assert row["passes"] <= TINY.budget and row["memory_bytes"] >= 0 and row["parameters"] > 0
    assert not list((tmp_path / "digits").glob("Parallel*/")) and (tmp_path / "digits" / "teacher").is_dir()

    measure = students.measure
    monkeypatch.setattr(students, "measure", lambda *args: pytest.fail("a stored row was measured again"))
    assert run(monkeypatch, tmp_path, "--method", method) == found

    def stopped(*args: Any) -> dict[str, Any]:
        raise ValueError("it went wrong")

    monkeypatch.setattr(students, "measure", stopped)
    failed = run(monkeypatch, tmp_path, "--method", method, "PeRFlow(2)")
    assert failed[method] == found[method] and failed["PeRFlow(2)"]["0"]["error"] == "ValueError: it went wrong"
    monkeypatch.setattr(students, "measure", measure)
    again = run(monkeypatch, tmp_path, "--method", method, "PeRFlow(2)", "--half-width")
    half = again["PeRFlow(2), half width"]["0"]
    assert half["parameters"] < 0.6 * sum(
        p.numel() for p in bl.load(tmp_path / "digits" / "teacher").flow.field.parameters()
    )
    capsys.readouterr()
    made = {name: tmp_path / "digits" / f"{name}-0-2.npy" for name in ("teacher", "PeRFlow-2-half-width", "none")}
    picture.write(made, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as drawn:
        assert drawn.size == (picture.LABEL + 10 * (picture.SIDE + 2), 2 * (picture.SIDE + 2))
    with pytest.raises(BeelineError, match="measure mnist"):
        picture.write({"none": made["none"]}, tmp_path / "picture.png")


def test_a_wrong_method_or_missing_data_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for words, message in (
        (["digits", "--method", "PerflowX"], "PerflowX"),
        (["mnist"], "give --mnist FILE"),
        (["mnist", "--mnist", str(tmp_path / "none.npz")], "does not exist"),
        (["cifar10", "--cifar10", str(tmp_path)], "has no train-"),
        ([], "nothing was named"),
    ):
        monkeypatch.setattr(sys, "argv", ["fewstep", *words, "--models", str(tmp_path / "models")])
        with pytest.raises(SystemExit, match=message):
            fewstep.main()
    assert not list(tmp_path.iterdir())


def test_every_row_names_a_distillation_of_the_registry() -> None:
    found = [row.name for row in rows()]
    assert len(found) == len(set(found))
    assert {"ParallelDecoding(most=4)", "MeanFlow()", "DMD2() for 1", "OneStep(Sampler(8)), half width"} <= set(found)
    assert all(isinstance(row.build(), Distillation) for row in rows())
    assert Row("PeRFlow()", 1).build() == PeRFlow(1)


def test_the_page_is_that_of_the_results(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    page.write(target)
    assert target.read_text(encoding="utf-8") == page.PAGE.read_text(encoding="utf-8")
    empty = page.page({}, {})
    assert empty.count("Not measured yet") == 6
    at = {"1": {"distance": 2.0, "recall": 0.5, "coverage": 0.5, "agreement": 0.9, "pairing": 0.1}}
    settings = {"budget": 100, "batch": 4, "samples": 10}
    ends = {"1": {**at["1"], "distance": 10.0}, "32": {**at["1"], "distance": 1.6}}
    teacher = {"settings": settings, "parameters": 5, "Euler": ends, "Heun": {"32": {**at["1"], "distance": 2.0}}}
    row = {"evaluations": {**at, "2": {"refused": "no"}}, "steps": 7, "passes_per_step_and_datum": 3.0}
    row |= {"cpu_seconds": 1.0, "memory_bytes": 2**20}
    measured = {"mnist": {"teacher": {"0": teacher}, "OneStep()": {"0": row}, "Bad()": {"0": {"error": "E: x"}}}}
    found = page.page(measured, {})
    assert "| OneStep | 2 | - | - | - | - |" in found and "- Bad failed: E: x" in found
    assert "1.25 times | OneStep" in found and "two evaluations: at most 1.05 times the teacher at 32 | not me" in found
    assert "| 1 | 7 | 3.0 | 1 | 1 |" in found and "Computed on" not in found

    # with the larger budget, aims are judged there if it has such a student; seconds beside a GPU are not shown
    gpu = {"accelerator": "A GPU"}
    longer = {"settings": {**settings, "budget": 800}, "parameters": 5, "machine": gpu}
    longer |= {"Euler": {"1": ends["1"], "32": {**at["1"], "distance": 1.0}}, "Heun": {"32": ends["1"]}}
    better = {**row, "evaluations": {"1": {**at["1"], "distance": 1.1}}, "machine": gpu}
    small = {**row, "evaluations": {"1": {**at["1"], "distance": 3.0}}}
    both = {"mnist": {**measured["mnist"], "Reflow(Sampler(8))": {"0": small}}}
    both["mnist-long"] = {"teacher": {"0": longer}, "OneStep()": {"0": better}}
    found = page.page(both, {})
    assert "1.1 times | OneStep | 800 |" in found and "0.3 times | Reflow(Sampler(8)) | 100 |" in found
    assert found.count("at most 1.15 times the teacher") == 1
    assert "| 1 | 7 | 3.0 | - | 1 |" in found and "Computed on one A GPU." in found and "took 1 to 1 s" in found
