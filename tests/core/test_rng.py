"""Random numbers as values: the same key the same numbers, forks independent, rows alone or together."""

import numpy as np
import pytest
import torch
from scipy import stats

from beeline.core import philox
from beeline.core.rng import Rng

CPU = torch.device("cpu")


def test_words_are_those_of_the_reference_implementation() -> None:
    key = (123456789123456789, 2**63 + 12345)
    for n in (1, 3, 4, 7, 700, 70_001):
        expected = np.random.Philox(key=np.array(key, dtype=np.uint64)).random_raw(n).view(np.int64)
        assert np.array_equal(philox._block(key, None, n, CPU)[0].numpy(), expected)
        assert np.array_equal(torch.cat(list(philox.words(key, None, n, CPU)), 1)[0].numpy(), expected)


def test_rows_have_one_definition_on_every_route() -> None:
    key, rows = Rng(4).words(), torch.tensor([5, -3, 2**40])
    by_numpy = torch.cat(list(philox.words(key, rows, 900, CPU)))
    assert torch.equal(by_numpy, philox._block(key, rows, 900, CPU))
    rng, seeds = Rng(4), list(range(-40, 60))
    many = rng.rows(seeds, torch.empty(1, 33))
    assert torch.equal(many[:7], rng.rows(seeds[:7], torch.empty(1, 33)))  # many short rows, and few


def test_a_key_is_a_value() -> None:
    like = torch.empty(4, 3)
    assert torch.equal(Rng(1).normal(like), Rng(1).normal(like))
    assert Rng(1).fork("a", 2) == Rng(1, ("a", 2)) and Rng(1).fork("a").fork(2) == Rng(1).fork("a", 2)
    keys = [Rng(s).fork(*names).key() for s in range(20) for names in ((), ("a",), (1,), ("1",), (1.5,), ("a", 1))]
    assert len(set(keys)) == len(keys)


def test_equal_numbers_are_one_name() -> None:
    base = Rng(np.int64(7)).fork(3, 0.1)
    for other in (Rng(7).fork(np.int64(3), np.float32(0.1)), Rng(7).fork(3.0, float(torch.tensor(0.1)))):
        assert other == base and other.words() == base.words()


def test_every_bit_of_the_seed_counts() -> None:
    like = torch.empty(8)
    first = Rng(7)
    for other in (Rng(7 + 2**32), Rng(7 + 2**64), Rng(-7)):
        assert not torch.equal(first.normal(like), other.normal(like))
        assert not torch.equal(first.permutation(50), other.permutation(50))
        assert not torch.equal(*(torch.rand(8, generator=r.generator()) for r in (first, other)))
        drawn = []
        for rng in (first, other):
            with rng.ambient():
                drawn.append(torch.rand(8))
        assert not torch.equal(*drawn)


def test_a_million_seeds_without_a_duplicate() -> None:
    n = 1_000_000
    made = Rng(0).rows(range(n), torch.empty(1, 2, dtype=torch.float64))  # 64 random bits a row
    assert len(np.unique(made.numpy(), axis=0)) == n
    keys = {Rng(seed).words() for seed in range(200_000)} | {Rng(0).fork("k", seed).words() for seed in range(200_000)}
    assert len(keys) == 400_000


def test_normal_numbers_are_normal() -> None:
    for seed in range(3):
        z = Rng(seed).normal(torch.empty(200_000)).double().numpy()
        assert stats.kstest(z, "norm").pvalue > 1e-4
        assert stats.kstest((z**2)[:-1] + (z**2)[1:], stats.chi2(2).cdf).statistic < 0.01  # neighbours are independent
    tail = np.abs(Rng(9).normal(torch.empty(4_000_000)).numpy())
    for bound in (3.0, 4.0, 5.0):
        expected = 4_000_000 * 2 * stats.norm.sf(bound)
        assert abs((tail > bound).sum() - expected) < 5 * expected**0.5


def test_uniform_numbers_are_uniform() -> None:
    for seed in range(3):
        assert (
            stats.kstest(Rng(seed).uniform(200_000, torch.empty(0, dtype=torch.float64)).numpy(), "uniform").pvalue
            > 1e-4
        )
    u = Rng(0).uniform(100_000, torch.empty(0))
    assert 0 <= float(u.min()) and float(u.max()) < 1
    assert float(Rng(0).fill(torch.empty(200_000, dtype=torch.bfloat16)).max()) < 1
    counts = torch.bincount(Rng(0).integers(5, 50_000), minlength=5)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    places = torch.stack([Rng(k).permutation(6) for k in range(6000)])
    assert torch.equal(places.sort(1).values, torch.arange(6).expand(6000, 6))
    for column in places.T:
        assert stats.chisquare(torch.bincount(column, minlength=6).numpy()).pvalue > 1e-5


def test_streams_are_independent() -> None:
    like = torch.empty(400, dtype=torch.float64)
    forks = torch.stack([Rng(0).fork(k).normal(like) for k in range(200)])
    seeds = torch.stack([Rng(k).normal(like) for k in range(200)])
    for many in (forks, seeds, Rng(0).rows(range(200), like.expand(1, -1))):
        correlation = torch.corrcoef(many) - torch.eye(200, dtype=torch.float64)
        assert float(correlation.abs().max()) < 5.5 / 400**0.5
        assert stats.kstest(many.flatten().numpy(), "norm").pvalue > 1e-4


def test_dtype_and_length_do_not_change_the_numbers() -> None:
    for n in (1, 5, 1000):
        double = Rng(2).normal(torch.empty(n, dtype=torch.float64))
        single = Rng(2).normal(torch.empty(n))
        assert torch.allclose(single.double(), double, atol=1e-4)
        assert torch.equal(single.bfloat16(), Rng(2).normal(torch.empty(n, dtype=torch.bfloat16)))
        assert torch.equal(Rng(2).normal(torch.empty(n + 3))[:n], single)
        assert torch.equal(Rng(2).uniform(n, double).float(), Rng(2).uniform(n, single))


def test_numbers_are_made_on_the_device() -> None:
    like = torch.empty(3, 5, device="meta")
    for made in (Rng(0).normal(like), Rng(0).fill(like), Rng(0).rows([1, 2, 3], like)):
        assert made.device.type == "meta" and made.shape == (3, 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_same_numbers_on_cpu_and_gpu() -> None:
    like = torch.empty(64, 700)
    for draw in (lambda x: Rng(1).normal(x), lambda x: Rng(1).fill(x), lambda x: Rng(1).rows(range(64), x)):
        assert torch.allclose(draw(like.cuda()).cpu(), draw(like), atol=1e-6, rtol=1e-5)


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
        inside = torch.randn(2)
    assert torch.equal(before, torch.random.get_rng_state())
    with Rng(0).ambient():
        assert torch.equal(inside, torch.randn(2))


def test_generators_are_seeded_whole_and_uniform() -> None:
    drawn = torch.rand(100_000, generator=Rng(3).generator())
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-4
    assert stats.kstest(torch.randn(100_000, generator=Rng(3).generator()).numpy(), "norm").pvalue > 1e-4


def test_refusals() -> None:
    with pytest.raises(ValueError, match="got no seeds"):
        Rng(0).rows([], torch.empty(1, 2))
    with pytest.raises(ValueError, match="give a floating-point tensor"):
        Rng(0).normal(torch.empty(2, dtype=torch.long))
    with pytest.raises(ValueError, match="the seed of an Rng is 0.5, which is not a whole number"):
        Rng(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a name of a fork is None"):
        Rng(0).fork(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a seed is 'a', which is not a whole number"):
        Rng(0).rows(["a"], torch.empty(1, 2))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at most 64 bits"):
        Rng(0).rows([2**64], torch.empty(1, 2))
