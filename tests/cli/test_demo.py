"""The demo with a few training steps: it writes three runs and a report, and can be repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import beeline as bl
from beeline.cli.main import run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    assert run(["demo", "--quick", "--out", str(out)]) == 0
    return out


def test_three_runs_and_a_report(demo: Path) -> None:
    for name, made_by in (
        ("teacher", "train"),
        ("reflowed", "distillations.Reflow"),
        ("distilled", "distillations.OneStep"),
    ):
        bundle = bl.load(demo / name)
        assert bundle.lineage["made_by"] == made_by
        assert (demo / name / "report.html").is_file() and (demo / name / "samples" / "final.png").is_file()
    assert set(bl.load(demo / "distilled").lineage["quality"]) == {"teacher", "reflowed", "distilled"}
    assert bl.load(demo / "distilled").lineage["parent_weights"] == bl.load(demo / "reflowed").weights
    page = (demo / "report.html").read_text()
    for words in ("teacher", "reflowed", "distilled", "evaluations", "real-vs-real", "held-out", "beeline demo --out"):
        assert words in page
    assert "https://" not in page and "<script src" not in page
    figures = json.loads((demo / "figures.json").read_text())
    assert set(figures["models"]["teacher"]) == {"1", "4", "32"} and set(figures["models"]["distilled"]) == {"1"}
    for model in figures["models"].values():
        for count, report in model.items():
            assert report["cost"]["evaluations"] == int(count)


def test_a_finished_demo_is_not_trained_again(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / "teacher" / "bundle" / "model.safetensors").stat().st_mtime_ns
    assert run(["demo", "--quick", "--out", str(demo)]) == 0
    assert capsys.readouterr().out.count("already trained") == 3
    assert (demo / "teacher" / "bundle" / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_in_the_same_directory_are_refused(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--out", str(demo)]) == 2
    assert "other settings" in capsys.readouterr().err
