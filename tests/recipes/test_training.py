"""Training by one call."""

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import beeline as bl
from beeline.recipes.points import two_moons
from beeline.training.config import Training


def slow(*parts: Any, limit: float) -> float:
    """Two seconds a step of 64 data on any machine, of which half take 0.6: a minute allows some twenty steps."""
    return 2.0 * 0.6 ** math.log2(64 / parts[3].batch_size)


train = functools.partial(bl.train, budget="1m", measure=slow)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_points_with_labels() -> None:
    x = np.random.default_rng(0).normal(size=(80, 2))
    flow = train(x, np.arange(80) % 4)
    made = flow.sample(6, label=3)
    assert made.values.shape == (6, 2) and set(made.labels) == {3}
    again = bl.load("runs/data").sample(6, cond={"label": 3})
    np.testing.assert_array_equal(made.values, again.values)
    assert Path("runs/data-data.npz").is_file() and flow.sample(2).values.shape == (2, 2)
    assert train(torch.randn(40, 3)).sample(1).values.shape == (1, 3) and Path("runs/data-2").is_dir()
    with pytest.raises(ValueError, match="in one way"):
        flow.sample(1, cond={"label": 1}, label=2)


def test_images_and_tables() -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    assert train(images, out="i").sample(2).pixels.shape == (2, 8, 8, 1)
    frame = pd.DataFrame({"age": np.arange(60) % 9 + 20, "city": ["Bern", "Oslo", "Rome"] * 20})
    made = train(frame, out="t").sample(4)
    assert list(made.columns) == ["age", "city"] and set(made["city"]) <= {"Bern", "Oslo", "Rome"}


def test_a_run_and_a_path() -> None:
    run = replace(two_moons(), training=Training(steps=3, batch_size=8))
    assert bl.train(run, out="r").sample(1, label=1).values.shape == (1, 2)
    np.save("p.npy", np.random.default_rng(0).normal(size=(50, 2)))
    assert train("p.npy", out="q").sample(1).values.shape == (1, 2)


@pytest.mark.parametrize(
    ("data", "labels", "match"),
    [
        ([[1.0, 2.0]], None, "list is no data to train on"),
        (np.zeros((4, 2, 3, 2, 2)), None, r"\(4, 2, 3, 2, 2\)"),
        (np.zeros((4, 2)), np.zeros(3, int), "beside 4 data"),
        (np.zeros((4, 2)), [0.5, 1.0, 2.0, 3.0], "one whole number or text for each"),
        (np.zeros((4, 2)), ["a", None, "b", "c"], "the labels hold NoneType"),
        (np.zeros((4, 2, 3), complex), None, "are no numbers to learn"),
        (np.array([["a"], ["b"]]), None, "as a data frame"),
        (pd.DataFrame({"label": [1]}), [0], "has a column 'label' already"),
        (pd.DataFrame({"a": [1]}), [0, 1], "2 labels were given beside 1 rows"),
        ((np.zeros((4, 2)), [0] * 4), [0] * 4, "give them once"),
        (torch.utils.data.TensorDataset(torch.zeros(3, 2)), [0] * 3, "pairs .datum, label."),
        (torch.utils.data.TensorDataset(*[torch.zeros(3, 2)] * 3), None, "items of 3 parts"),
        ([torch.zeros(2)], None, "list is no data to train on"),
        ("nowhere.csv", None, "does not exist"),
    ],
)
def test_refusals(data: object, labels: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        bl.train(data, labels)
    assert not list(Path().rglob("*.*"))  # nothing is left


def test_a_resumed_run_is_the_same_run() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    first = train(x, out="a").sample(3).values
    again = bl.train(x, out="a", resume=True, measure=None)  # no trial: the run is read from its directory
    np.testing.assert_array_equal(again.sample(3).values, first)


def test_the_data_of_a_run_are_not_overwritten() -> None:
    train(np.random.default_rng(0).normal(size=(60, 2)), out="a")
    before = Path("a-data.npz").read_bytes()
    with pytest.raises(ValueError, match="already holds a run"):
        train(np.zeros((9, 2)), out="a")
    assert Path("a-data.npz").read_bytes() == before


def test_a_directory_is_no_label() -> None:
    run = replace(two_moons(), training=Training(steps=3, batch_size=8))
    with pytest.raises(ValueError, match="name the directory of the run by out="):
        bl.train(run, "r")
    assert not Path("r").exists() and not Path("runs").exists()
