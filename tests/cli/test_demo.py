"""The whole road, with a few steps of training: everything that the demo promises is there, and it goes on again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import beeline as bl
from beeline.cli.main import run


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    assert run(["demo", "--quick", "--out", str(out)]) == 0
    return out


def test_three_runs_and_a_report(road: Path) -> None:
    for name, made_by in (
        ("teacher", "train"),
        ("reflowed", "distillations.Reflow"),
        ("distilled", "distillations.OneStep"),
    ):
        bundle = bl.load(road / name)
        assert bundle.lineage["made_by"] == made_by
        assert (road / name / "report.html").is_file() and (road / name / "samples" / "final.png").is_file()
    assert set(bl.load(road / "distilled").lineage["quality"]) == {"teacher", "reflowed", "distilled"}
    assert bl.load(road / "distilled").lineage["parent_weights"] == bl.load(road / "reflowed").weights
    page = (road / "report.html").read_text()
    for words in ("teacher", "reflowed", "distilled", "evaluations", "floor", "held-out", "beeline demo --out"):
        assert words in page
    assert "https://" not in page and "<script src" not in page
    told = json.loads((road / "figures.json").read_text())
    assert set(told["models"]["teacher"]) == {"1", "4", "32"} and set(told["models"]["distilled"]) == {"1"}
    for model in told["models"].values():
        for count, report in model.items():
            assert report["cost"]["evaluations"] == int(count)


def test_a_finished_demo_is_not_made_again(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (road / "teacher" / "bundle" / "model.safetensors").stat().st_mtime_ns
    assert run(["demo", "--quick", "--out", str(road)]) == 0
    assert capsys.readouterr().out.count("already there") == 3
    assert (road / "teacher" / "bundle" / "model.safetensors").stat().st_mtime_ns == before


def test_another_demo_in_its_place_is_refused(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--out", str(road)]) == 2
    assert "other settings" in capsys.readouterr().err
