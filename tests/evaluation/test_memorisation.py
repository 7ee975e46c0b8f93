"""Memorisation: copies are found, independent samples are not, and intervals hold their level."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.evaluation.features import Module
from beeline.evaluation.memorisation import PIXELS, Memorisation, placements, share_below

DOUBLE = Module(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8, bias=False)), "linear")


def data(seed: int, n: int, key: str) -> torch.Tensor:
    """Pictures of two kinds with noise."""
    rng = Rng(seed).fork(key)
    kind = rng.fork("kind").integers(2, n)[:, None, None, None] * 2.0 - 1
    return kind + 0.5 * rng.fork("noise").normal(torch.empty(n, 1, 4, 4))


def share(made: torch.Tensor, seed: int, held: int = 150):
    return Memorisation(data(seed, 400, "train"), data(seed, held, "held"))(made, Rng(seed)).scores[0]


def test_the_interval_of_independent_samples_holds_one_half():
    inside = 0
    for seed in range(60):
        low, high = share(data(seed, 120, "made"), seed).interval
        inside += low <= 0.5 <= high
        assert low > 0.25 and high < 0.75
    assert 52 <= inside <= 60  # 57 are expected of 60


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_found(seed):
    train = data(seed, 400, "train")
    rng = Rng(seed).fork("copies")
    near = train[rng.permutation(400)[:100]] + 0.01 * rng.normal(train[:100])
    assert share(near, seed).interval[0] > 0.9
    some = torch.cat([near[:50], data(seed, 50, "made")])  # half of the samples are copies
    score = share(some, seed)
    assert score.interval[0] > 0.5 and score.value == pytest.approx(0.75, abs=0.1)
    assert "copies" in score.note


def test_exact_copies_are_counted_and_shown():
    train, held = data(0, 60, "train"), data(0, 30, "held")
    made = torch.cat([data(0, 20, "made"), train[7:9]])
    found = Memorisation(train, held, DOUBLE, pairs=3)(made)
    assert found.details["copies"] == 2 and found.details["of"] == 22
    pairs = found.details["pairs"]
    assert {pair[PIXELS]["row"] for pair in pairs[:2]} == {7, 8}
    assert {pair["linear"]["row"] for pair in pairs[:2]} == {7, 8}
    assert pairs[0][PIXELS]["distance"] == 0 and pairs[0][PIXELS]["held-out data that are nearer"] == 0
    assert torch.equal(found.shown["samples"][:2], found.shown[PIXELS][:2])
    assert [score.name for score in found.scores] == ["memorisation (data space)", "memorisation (linear)"]
    assert all(score.baseline == 0.5 and score.n_real == 60 for score in found.scores)


def test_samples_away_from_the_data_are_below_one_half():
    score = share(data(0, 100, "made") * 4, 0)
    assert score.interval[1] < 0.1 and "no sign of copies" in score.note


def test_features_of_the_data_are_computed_once():
    calls = []

    class Counted(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x.flatten(1)

    seen = {}
    memorisation = Memorisation(data(0, 60, "train"), data(0, 30, "held"), Module(Counted(), "counted"))
    for seed in range(3):
        memorisation(data(seed, 20, "made"), seen=seen)
    assert sorted(calls) == [20, 20, 20, 30, 60]


def test_the_share_is_the_one_over_all_pairs():
    a, b = torch.tensor([0.0, 1.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 3.0])
    wanted = sum((x < y) + 0.5 * (x == y) for x in a.tolist() for y in b.tolist()) / 12
    assert share_below(a, b)[0] == pytest.approx(wanted)
    assert placements(a, b).tolist() == pytest.approx([1.0, 2.5 / 3, 2 / 3, 0.0])
    assert share_below(a, a + 10)[1][0] > 0.3  # all on one side: the interval is that of a proportion
    assert share_below(a, a + 10)[1][1] == pytest.approx(1.0)


def test_refusals():
    with pytest.raises(BeelineError, match="give both"):
        Memorisation(torch.zeros(3, 1), torch.zeros(0, 1))
