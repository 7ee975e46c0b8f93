"""Benchmark results: one format for all of them, and command lines that start."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks import report

KEYS = ["benchmark", "command", "date", "commit", "machine", "device", "versions", "seeds", "settings", "figures"]
NAMES = [
    "ablation", "cells", "claims.__main__", "demo", "engine", "fewstep", "foreign_demo", "kills", "presets", "slots",
    "solvers", "tables",
    "throughput", "truth",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_help_and_an_output_file(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    text = capsys.readouterr().out
    assert f"python -m benchmarks.{name.removesuffix('.__main__')}" in text and "--output FILE" in text


def test_a_result_has_machine_versions_commit_device_command_seeds_and_settings(tmp_path: Path) -> None:
    path = report.write("toy", {"error": 0.5}, [0, 1], tmp_path / "a" / "toy.json", device="cuda", batch_size=8)
    found = report.read(path)
    assert list(found) == KEYS
    assert found["figures"] == {"error": 0.5} and found["seeds"] == [0, 1] and found["device"] == "cuda"
    assert found["settings"] == {"batch_size": 8} and found["machine"]["threads"] >= 1
    assert {"python", "torch", "numpy", "beeline"} <= set(found["versions"])
    assert report.read(tmp_path / "none.json") == {}


def test_a_command_has_no_path_of_a_machine() -> None:
    words = ["/usr/bin/python", "-m", "benchmarks.adapt", "--mnist", "/data/mnist.npz", "--models", "models/few"]
    assert report.command(words) == "python -m benchmarks.adapt --mnist mnist.npz --models models/few"


def test_a_failed_write_leaves_the_earlier_result(tmp_path: Path) -> None:
    path = report.write("toy", 1.0, [0], tmp_path / "toy.json")
    with pytest.raises(ValueError):
        report.write("toy", float("nan"), [0], path)
    assert report.read(path)["figures"] == 1.0 and [p.name for p in tmp_path.iterdir()] == ["toy.json"]


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_the_committed_results_have_the_format(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert list(found) == KEYS and found["benchmark"] == path.stem and found["figures"]
