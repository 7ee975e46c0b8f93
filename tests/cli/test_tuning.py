"""``beeline fit-solver`` and ``--set sampler=auto``, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beeline.cli import tuning
from beeline.cli.main import run
from beeline.core.rng import Rng
from beeline.distillation import fit_solver as fitting
from beeline.runs.bundle import load

SMALL = [
    "--set",
    "training.steps=4",
    "--set",
    "training.batch_size=16",
    "--set",
    "network.width=16",
    "--set",
    "data.n=200",
]


@pytest.fixture(scope="module")
def moons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tune") / "moons"
    assert run(["train", "two-moons", *SMALL, "--set", "data.kept=80", "--out", str(out)]) == 0
    return out


def test_fit_solver_stores_the_sampler(moons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    words = [
        "fit-solver",
        str(moons),
        "--evaluations",
        "3",
        "--noises",
        "64",
        "--out",
        str(tmp_path / "tuned"),
        "--json",
    ]
    assert run(words) == 0
    printed = json.loads(capsys.readouterr().out)
    bundle = load(tmp_path / "tuned")
    assert bundle.sampler.steps == 3 and bundle.lineage["tuned"]["evaluations"] == 3
    assert printed["fitted"] == bundle.lineage["tuned"]["end point rmse"]["fitted"]
    assert printed["solver"] == type(bundle.sampler.solver).__name__
    assert len(bundle.sample(5, cond={"label": 0})) == 5


def test_fit_solver_by_another_method(moons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit-solver", str(moons), "--nfe", "2", "--noises", "64", "--out", str(tmp_path / "tuned"), "--json"]
    small = "StateDependent(Bespoke(iterations=4), hidden=2, iterations=4)"
    assert run([*words, "--method", small]) == 0
    assert load(tmp_path / "tuned").sampler.evaluations == 2
    assert run([*words, "--method", "StateDependant()"]) == 2
    assert "StateDependent" in capsys.readouterr().err


def test_auto(moons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    out = tmp_path / "points.csv"
    words = [
        "sample",
        str(moons),
        "-n",
        "4",
        "--condition",
        "label=0",
        "--set",
        "sampler=auto",
        "--set",
        "sampler.steps=4",
        "--json",
    ]
    assert run([*words, "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"] == 4
    assert run(["sample", str(moons), "--set", "sampler=auto", "--set", "sampler.steps=none", "--out", str(out)]) == 2


def test_refusals(moons: Path) -> None:
    with pytest.raises(ValueError, match="too few to fit"):
        tuning.fit(str(moons), 4, None, 2, 0, None)
    assert run(["fit-solver", str(moons), "--evaluations", "0"]) == 2
    assert fitting.Bespoke().iterations > 0 and Rng(0).key() > 0
