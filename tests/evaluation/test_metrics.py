"""Metrics against closed forms, scipy, and each other."""

import math

import pytest
import torch
from scipy import linalg, stats
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.evaluation import metrics
from beeline.evaluation.features import Identity, Module
from beeline.evaluation.metrics import (
    Energy,
    Frechet,
    Kernel,
    LabelAgreement,
    SlicedWasserstein,
    apart,
    between,
    frechet,
    moments,
    transport,
    within,
)

R = Rng(7)


def normal(n: int, d: int, key: str, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return mean + std * R.fork(key).normal(torch.empty(n, d, dtype=torch.float64))


def test_frechet_formula_is_the_one_with_the_matrix_root():
    a, b = (normal(6, 5, key) for key in "ab")
    s1, s2 = a.T @ a, b.T @ b + torch.eye(5, dtype=torch.float64)
    m1, m2 = normal(1, 5, "m")[0], normal(1, 5, "n")[0]
    root = linalg.sqrtm(s1.numpy() @ s2.numpy()).real
    wanted = float((m1 - m2).square().sum() + s1.trace() + s2.trace()) - 2 * float(root.trace())
    assert frechet(m1, s1, m2, s2) == pytest.approx(wanted, rel=1e-9)
    assert frechet(m2, s2, m1, s1) == pytest.approx(wanted, rel=1e-9)


def test_frechet_converges_to_the_closed_form_of_two_normals():
    # independent coordinates: sum of (mean difference)^2 + (std difference)^2
    errors = []
    for n in (500, 50_000):
        got = Frechet()(normal(n, 3, "x"), normal(n, 3, "y", mean=0.5, std=2.0), R)
        errors.append(abs(got - 3 * (0.25 + 1.0)))
    assert errors[1] < 0.05 and errors[1] < errors[0]


def test_frechet_of_a_sample_with_itself_is_zero_and_of_a_shift_exact():
    x = normal(200, 8, "x")
    assert Frechet()(x, x, R) < 1e-9
    assert Frechet()(x, x + 1, R) == pytest.approx(8.0, abs=1e-9)
    flat = torch.cat([x, torch.zeros(200, 1, dtype=torch.float64)], 1)  # a singular covariance
    assert Frechet()(flat, flat + 1, R) == pytest.approx(9.0, abs=1e-6)


def test_moments_are_numpys():
    x = normal(50, 4, "x")
    mean, cov = moments(x)
    assert torch.allclose(mean, x.mean(0)) and torch.allclose(cov, torch.cov(x.T))


def test_kernel_distance_is_unbiased_and_is_the_double_sum():
    x, y = normal(20, 3, "x"), normal(30, 3, "y", mean=0.3)
    k = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    xx = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (20 * 19)
    yy = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (30 * 29)
    xy = sum(k(a, b) for a in x for b in y) / 600
    assert Kernel()(x, y, R) == pytest.approx(xx + yy - 2 * xy, rel=1e-10)

    draws = torch.tensor([Kernel()(normal(20, 3, f"x{i}"), normal(20, 3, f"y{i}"), R) for i in range(300)])
    error = float(draws.std()) / math.sqrt(300)
    assert abs(float(draws.mean())) < 4 * error
    biased = torch.tensor([Frechet()(normal(20, 3, f"x{i}"), normal(20, 3, f"y{i}"), R) for i in range(30)])
    assert float(biased.mean()) > 0.1  # what unbiased is worth: the Frechet distance at this size is far from 0


def test_blocks_do_not_change_the_sums():
    x, y = normal(50, 3, "x"), normal(37, 3, "y")
    assert within(x, apart, block=7) == pytest.approx(within(x, apart), rel=1e-12)
    assert between(x, y, apart, block=7) == pytest.approx(float(torch.cdist(x, y).mean()), rel=1e-12)
    table = torch.cdist(x, x)
    assert within(x, apart) == pytest.approx(float(table.sum()) / (50 * 49), rel=1e-7)


@pytest.mark.parametrize("m", [40, 25, 64, 7])
def test_transport_in_one_dimension_is_scipys(m):
    x, y = normal(40, 1, "x"), normal(m, 1, "y", mean=1.0, std=0.5)
    wanted = stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert float(transport(x, y, 1.0)) == pytest.approx(wanted, rel=1e-10)
    assert SlicedWasserstein(power=1.0)(x, y, R) == pytest.approx(wanted, rel=1e-10)


def test_transport_of_repeated_samples_is_the_same_for_any_power():
    x, y = normal(12, 2, "x"), normal(12, 2, "y")
    assert torch.allclose(transport(x.repeat(3, 1), y), transport(x, y))  # 36 against 12


def test_sliced_wasserstein_of_a_shift():
    # <u, c>^2 has mean |c|^2 / D over directions u
    x, shift = normal(30, 4, "x"), torch.tensor([1.0, 2.0, 0.0, 2.0], dtype=torch.float64)
    got = SlicedWasserstein(projections=20_000)(x, x + shift, R)
    assert got == pytest.approx(math.sqrt(9 / 4), rel=0.02)
    assert SlicedWasserstein()(x, x, R) == 0


def test_energy_distance_of_two_normals_is_the_closed_form():
    def mean_distance(gap: float, std: float) -> float:  # E|Z| of Z ~ N(gap, std^2)
        return std * math.sqrt(2 / math.pi) * math.exp(-(gap**2) / (2 * std**2)) + gap * math.erf(gap / (std * 2**0.5))

    wanted = 2 * mean_distance(1.0, math.sqrt(1 + 4)) - mean_distance(0, 2**0.5) - mean_distance(0, 8**0.5)
    draws = torch.tensor(
        [Energy()(normal(200, 1, f"x{i}"), normal(100, 1, f"y{i}", mean=1.0, std=2.0), R) for i in range(200)]
    )
    assert abs(float(draws.mean()) - wanted) < 4 * float(draws.std()) / math.sqrt(200)


def test_energy_distance_is_scipys_up_to_the_pairs_of_a_row_with_itself():
    x, y = normal(30, 1, "x"), normal(20, 1, "y", mean=0.5)
    # scipy gives the square root, with those pairs in the means
    own = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    same = within(x, apart) / 30 + within(y, apart) / 20
    assert Energy()(x, y, R) == pytest.approx(own - same, rel=1e-9)


def test_energy_distance_survives_a_large_offset():
    x, y = normal(50, 2, "x"), normal(50, 2, "y", mean=1.0)
    assert Energy()(x + 1e6, y + 1e6, R) == pytest.approx(Energy()(x, y, R), rel=1e-6)


def test_rows_bound_the_cost_and_keep_the_value():
    x, y = normal(2000, 2, "x"), normal(2000, 2, "y", mean=1.0)
    for whole, part in ((Energy(), Energy(rows=500)), (Kernel(), Kernel(rows=500))):
        a, parts = whole(x, y, R), [part(x, y, Rng(k)) for k in range(20)]
        assert len(set(parts)) == 20 and sum(parts) / 20 == pytest.approx(a, rel=0.1)


def test_the_rows_of_an_energy_distance_are_bounded_by_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(100, 4, "x"), normal(100, 4, "y", mean=1.0)
    whole = Energy()(x, y, R)
    monkeypatch.setattr(metrics, "PRODUCTS", 50 * 50 * 4)
    assert Energy()(x, y, R) == Energy(rows=50)(x, y, R) != whole
    assert Energy(rows=49)(x, y, R) != Energy()(x, y, R)


def test_label_agreement_counts():
    x = torch.eye(4)
    metric = LabelAgreement(Module(nn.Identity(), "argmax"), label="digit")
    asked = {"digit": torch.tensor([0, 1, 2, 0]), "other": torch.zeros(4)}
    assert metric(x, x, R, cond=asked) == 0.75
    assert metric.better == "higher"
    low, high = metric.interval(1.0, 100)
    assert high == pytest.approx(1.0) and low == pytest.approx(stats.binomtest(100, 100).proportion_ci(
        method="wilson").low, abs=1e-6)  # fmt: skip


def test_features_are_used():
    twice = Module(nn.Linear(2, 3, bias=False, dtype=torch.float64), "linear")
    x, y = normal(30, 2, "x"), normal(30, 2, "y")
    w = twice.net.weight.detach()
    assert Frechet(twice)(x, y, R) == pytest.approx(Frechet()(x @ w.T, y @ w.T, R), abs=1e-9)
    assert Identity()(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("metric", "real", "made", "cond", "message"),
    [
        (Frechet(), torch.zeros(9, 8), torch.zeros(8, 8), None, "needs at least 9 of each"),
        (Energy(), torch.zeros(9, 8), torch.zeros(1, 8), None, "needs at least 2"),
        (Energy(), torch.zeros(9, 8), torch.zeros(9, 7), None, "data of one shape"),
        (Energy(), torch.zeros(9, 8), torch.tensor([[0.0], [math.nan], [math.inf]]).expand(3, 8), None,
         "2 of 3 generated samples contain NaN or infinite values, the first at index 1"),
        (Energy(), torch.full((3, 1), math.nan), torch.zeros(3, 1), None, "remove them"),
        (Energy(), torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 1), None, "encode the data first"),
        (LabelAgreement(Module(nn.Identity(), "a")), torch.eye(2), torch.eye(2), None, "labels are needed"),
        (LabelAgreement(Module(nn.Identity(), "a")), torch.eye(2), torch.eye(2), torch.zeros(3, dtype=torch.int64),
         "3 labels for 2 samples"),
    ],
)  # fmt: skip
def test_refusals(metric, real, made, cond, message):
    more = {} if cond is None else {"cond": cond}
    with pytest.raises(BeelineError, match=message):
        metric(real, made, R, **more)


def test_sliced_wasserstein_refuses_no_direction():
    with pytest.raises(BeelineError, match="projections=0"):
        SlicedWasserstein(projections=0)
