"""A student beside its teacher on the same noise."""

import math

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.evaluation.likeness import likeness

X = Rng(0).normal(torch.empty(4000, 3))
Y = Rng(1).normal(torch.empty(4000, 3))


def test_exact_pairing_of_a_mixture_with_fresh_noise() -> None:
    # s = c t + sqrt(1 - c^2) e: |s - t|^2 = 2 (1 - c) of 2 for unrelated pairs
    for c in (1.0, 0.5, 0.0):
        found = likeness(c * X + math.sqrt(1 - c * c) * Y, X)
        assert abs(found.pairing - math.sqrt(1 - c)) < 0.02 and abs(found.spread - 1) < 0.03
    assert abs(found.recall - found.teacher_recall) < 0.1 and abs(found.coverage - found.teacher_coverage) < 0.05


def test_the_mean_over_unrelated_pairs_is_exact() -> None:
    s, t = X[:20], Y[:20]
    far = (s[:, None] - t[None]).square().sum(2)
    apart = (far.sum() - far.diagonal().sum()) / (20 * 19)
    assert likeness(s, t).pairing == pytest.approx(float((far.diagonal().mean() / apart).sqrt()), rel=1e-5)


def test_pairs_within_groups_do_not_count_the_label_as_pairing() -> None:
    groups = torch.arange(4000) % 4
    centres = 100 * groups[:, None].float()
    unrelated = likeness(Y + centres, X + centres, groups)
    assert abs(unrelated.pairing - 1) < 0.02 and abs(unrelated.spread - 1) < 0.03
    assert likeness(Y + centres, X + centres).pairing < 0.05  # all of it is the label


def test_collapse_is_seen() -> None:
    collapsed = torch.where(X[:, :1] > 0, X, X * torch.tensor([-1.0, 1.0, 1.0]))  # one half of the space
    found = likeness(collapsed, X)
    assert found.recall < 0.75 * found.teacher_recall and found.coverage < 0.75 * found.teacher_coverage
    point = likeness(torch.zeros_like(X), X)
    assert point.spread == 0 and point.recall < 0.01 and point.coverage < 0.05


def test_refusals() -> None:
    with pytest.raises(BeelineError, match="row by row"):
        likeness(X[:10], X[:10])
    with pytest.raises(BeelineError, match="equally many"):
        likeness(X[:30], X[:20])
    for labels in (torch.arange(64), torch.zeros(63)):
        with pytest.raises(BeelineError, match="several samples the same"):
            likeness(X[:64], Y[:64], labels)
