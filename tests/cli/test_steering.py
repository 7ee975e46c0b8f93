"""``beeline sample --steer``: energies and controllers by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import beeline as bl
from beeline.cli.main import run
from beeline.cli.verbs.steering import controller, steered
from beeline.data.points import Points
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.energies.squared import Near
from beeline.sampling.steering.inverse.pulls import Pull
from beeline.sampling.steering.operators.masks import Mask


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow that leaves points where they are."""
    modality = Points(columns=("x", "y"), mean=(0.0, 0.0), std=(1.0, 1.0))
    with bl.Rng(0).ambient():
        net = bl.Network(bl.networks.MLP(2, width=8, depth=1))
    return bl.Bundle(bl.Flow(net), modality=modality).save(tmp_path_factory.mktemp("steer") / "bundle")


def test_an_energy_is_followed_by_the_default_controller() -> None:
    assert controller("Near((0.5, 1.0), deviation=2)") == EnergyGuidance(Near([0.5, 1.0], 2.0))
    pull = controller("Pull(Measured(Mask((1, 0)), (0.5, 0.0)))")
    assert pull == Pull(Measured(Mask([1, 0]), [0.5, 0.0]))
    made = steered(bl.Sampler(controllers=(pull,)), ["EnergyGuidance(Near((0.5, 1.0)), strength=2)"])
    assert made.controllers == (pull, EnergyGuidance(Near([0.5, 1.0]), 2.0))


def test_samples_are_led_to_what_is_wanted(points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, counts = [tmp_path / "plain.npy", tmp_path / "steered.npy"], []
    for file, more in zip(files, ([], ["--steer", "Near((3.0, -3.0), deviation=3)"]), strict=True):
        assert run(["sample", str(points), "-n", "50", "--out", str(file), "--json", *more]) == 0
        counts.append(json.loads(capsys.readouterr().out)["evaluations"])
    plain, led = (np.abs(np.load(file) - [3.0, -3.0]).mean() for file in files)
    assert led < plain - 0.5 and counts == [40, 40]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Neer((1, 2))", "did you mean 'Near'"),
        ("3", "one of the controllers"),
        ("none", "one of the controllers"),
        ("Near((1.0, 2.0), deviation=-1)", "deviation=-1"),
        ("HEUN", "HEUN"),
        ("Near((1.0, 2.0, 3.0))", "target of shape (3,)"),
        ("Pull(Near((1.0, 2.0)))", "Measured"),
    ],
)
def test_mistakes(points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    assert run(["sample", str(points), "-n", "2", "--out", str(tmp_path / "a.npy"), "--steer", text]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
