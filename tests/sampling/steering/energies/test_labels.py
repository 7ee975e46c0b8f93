"""Classifiers as energies, and their calibration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from beeline.core.rng import Rng
from beeline.sampling.steering.energies.labels import Label, calibrated, calibration_error, softened

X = Rng(0).normal(torch.empty(6000, 3, dtype=torch.float64))
ONES = torch.ones(len(X))


def logits(x1):
    return 4 * x1


def test_the_energy_is_minus_the_log_probability():
    labels = torch.arange(len(X)) % 3
    p = (logits(X) / 2).softmax(1)[torch.arange(len(X)), labels]
    for cond in (labels, {"label": labels}):
        assert torch.allclose(Label(logits, temperature=2.0)(X, ONES, cond), -p.log())
    assert torch.allclose(Label(logits, label=2)(X, ONES), -logits(X).log_softmax(1)[:, 2])


def test_without_the_marginal_it_is_minus_the_logit():
    assert torch.allclose(Label(logits, label=1, marginal=0.0)(X, ONES), -logits(X)[:, 1])


def test_calibration_finds_the_temperature_of_the_labels():
    u = Rng(1).uniform(len(X), X)
    labels = (u[:, None] > (logits(X) / 2.5).softmax(1).cumsum(1)[:, :2]).sum(1)  # of the classifier at 2.5
    before = Label(logits)
    after = calibrated(before, X, labels)
    assert after.temperature == pytest.approx(2.5, rel=0.05)
    assert calibration_error(after, X, labels) < 0.02 < 0.1 < calibration_error(before, X, labels)


def test_the_calibration_error_of_one_bin_is_accuracy_against_confidence():
    labels = torch.zeros(len(X), dtype=torch.int64)
    p, made = logits(X).softmax(1).max(1)
    wanted = abs(float((made == 0).double().mean() - p.mean()))
    assert calibration_error(Label(logits), X, labels, bins=1) == pytest.approx(wanted)


def test_a_softened_classifier_has_gradients_where_relu_has_none():
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(1.0), net[0].bias.fill_(-1.0)
    soft = softened(net, beta=4.0)
    x = torch.zeros(1, 1, requires_grad=True)
    assert torch.autograd.grad(net(x).sum(), x)[0] == 0 and torch.autograd.grad(soft(x).sum(), x)[0] > 0
    assert isinstance(net[1], nn.ReLU) and float(soft(3 + x).detach()) == pytest.approx(2, abs=1e-3)


def test_an_activation_that_is_used_several_times_is_softened_everywhere():
    act = nn.ReLU()
    soft = softened(nn.Sequential(nn.Sequential(nn.Linear(1, 1), act, nn.Linear(1, 1), act), act))
    assert not any(isinstance(part, nn.ReLU) for part in soft.modules())


@pytest.mark.parametrize(
    ("energy", "cond", "message"),
    [
        (Label(logits, label=3), None, "a classifier of 3 classes"),
        (Label(logits), None, "found none under the condition"),
        (Label(logits), {"kind": torch.zeros(len(X), dtype=torch.int64)}, "found none under"),
        (Label(lambda x1: x1[:, 0], label=0), None, "a logit for every class"),
    ],
)
def test_wrong_labels_are_refused(energy, cond, message):
    with pytest.raises(ValueError, match=message):
        energy(X, ONES, cond)


def test_labels_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="row by row"):
        calibrated(Label(logits), X, torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="above 0"):
        softened(nn.ReLU(), beta=0.0)
