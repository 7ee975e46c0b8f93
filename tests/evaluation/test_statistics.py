"""Stored statistics of reference data."""

import numpy as np
import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.evaluation.features import Identity, Module
from beeline.evaluation.metrics import Frechet
from beeline.evaluation.scores import measure
from beeline.evaluation.statistics import FrechetToStatistics, Statistics

X = Rng(0).normal(torch.empty(300, 3))
Y = Rng(1).normal(torch.empty(200, 3)) + 0.4


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_stored_statistics_give_the_distance_to_the_data(tmp_path, name):
    path = tmp_path / name
    Statistics.of(X, Identity()).save(path)
    stored = Statistics.load(path)
    assert (stored.n, stored.features, stored.hash) == (300, "data space", "identity")
    metric = FrechetToStatistics(Identity(), stored)
    assert metric(Y, Y, Rng(0)) == pytest.approx(Frechet()(X, Y, Rng(0)), rel=1e-12)
    (score,) = measure([metric], Y, Y, Rng(0))
    assert score.n_real == 300 and score.reference_hash == stored.reference_hash and score.interval is not None
    assert "300 data in 3 features" in score.note
    with pytest.raises(BeelineError, match="are 3 features of data space"):
        FrechetToStatistics(Module(nn.Linear(3, 3), "other"), stored)(Y, Y, Rng(0))
    with pytest.raises(BeelineError, match="are 3 features of data space"):
        metric(Y[:, :2], Y[:, :2], Rng(0))


def test_statistics_of_other_packages_are_read(tmp_path):
    path = tmp_path / "theirs.npz"
    np.savez(path, mu=X.mean(0).numpy(), sigma=np.cov(X.numpy(), rowvar=False))
    stored = Statistics.load(path)
    assert FrechetToStatistics(Identity(), stored)(X, X, Rng(0)) < 1e-6
    note = FrechetToStatistics(Identity(), stored).estimate(X, X, Rng(0)).note
    assert "unknown number" in note and "may belong to others" in note


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "holds \\['mu'\\]"),
        ({"mu": np.zeros(3), "sigma": np.zeros((2, 2))}, "not \\[d\\] and \\[d,d\\]"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 5.0], [0.0, 1.0]])}, "not finite and symmetric"),
        ({"mu": np.array([object()]), "sigma": np.zeros((1, 1))}, "object|pickle|Python"),
    ],
)
def test_damaged_files_are_refused(tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(BeelineError, match=message):
        Statistics.load(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(BeelineError, match="pickles are not read"):
        Statistics.load(tmp_path / "a.pkl")
    with pytest.raises(BeelineError, match="there is no file"):
        Statistics.load(tmp_path / "a.npz")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(BeelineError, match="cannot be read"):
        Statistics.load(tmp_path / "a.safetensors")
    with pytest.raises(BeelineError, match="no statistics"):
        FrechetToStatistics()(Y, Y, Rng(0))
