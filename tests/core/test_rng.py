"""Random numbers as values: the same key the same numbers, forks apart, rows alone or together."""

import pytest
import torch

from beeline.core.rng import Rng


def test_a_key_is_a_value() -> None:
    like = torch.empty(4, 3)
    assert torch.equal(Rng(1).normal(like), Rng(1).normal(like))
    assert Rng(1).fork("a", 2) == Rng(1, ("a", 2)) and Rng(1).fork("a").fork(2) == Rng(1).fork("a", 2)
    keys = [Rng(s).fork(*names).key() for s in range(20) for names in ((), ("a",), (1,), ("1",), (1.0,), ("a", 1))]
    assert len(set(keys)) == len(keys)


def test_forks_are_independent_and_normal() -> None:
    many = torch.stack([Rng(0).fork(k).normal(torch.empty(200, dtype=torch.float64)) for k in range(200)])
    correlation = torch.corrcoef(many) - torch.eye(200, dtype=torch.float64)
    assert float(correlation.abs().max()) < 5.5 / 200**0.5
    assert abs(float(many.mean())) < 4 / 200 and abs(float(many.std()) - 1) < 0.01
    assert abs(float((many**4).mean()) - 3) < 0.15


def test_uniform_integers_and_permutation() -> None:
    u = Rng(0).uniform(100_000, torch.empty(0))
    assert abs(float(u.mean()) - 0.5) < 5e-3 and 0 <= float(u.min()) and float(u.max()) < 1
    assert float(Rng(0).fill(torch.empty(200_000, dtype=torch.bfloat16)).max()) < 1
    counts = torch.bincount(Rng(0).integers(5, 50_000), minlength=5)
    assert float((counts - 10_000).abs().max()) < 500
    assert torch.equal(Rng(0).permutation(50).sort().values, torch.arange(50))


def test_rows_do_not_depend_on_the_batch() -> None:
    rng, like = Rng(3), torch.empty(4, 2, 3)
    together = rng.rows([7, 1, 7, 9], like)
    assert torch.equal(together[0], together[2])
    for i, seed in enumerate([7, 1, 7, 9]):
        assert torch.equal(rng.rows([seed], like)[0], together[i])


def test_the_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    Rng(0).normal(torch.empty(3))
    Rng(0).permutation(4)
    with Rng(0).ambient():
        inside = torch.rand(2)
    assert torch.equal(before, torch.random.get_rng_state())
    with Rng(0).ambient():
        assert torch.equal(inside, torch.rand(2))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="got no seeds"):
        Rng(0).rows([], torch.empty(1, 2))
    with pytest.raises(ValueError, match="ask with a floating point tensor"):
        Rng(0).normal(torch.empty(2, dtype=torch.long))
