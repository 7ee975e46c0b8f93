"""Nearest neighbours and the scores that count them, against exhaustive search, torch-fidelity and known values."""

import importlib

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.evaluation.metrics import KID, Frechet, Kernel, moments
from beeline.evaluation.neighbours import Coverage, Density, Precision, Recall, nearest, radii

R = Rng(11)


def normal(n: int, d: int, key: str, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return mean + std * R.fork(key).normal(torch.empty(n, d, dtype=torch.float64))


def test_blocks_find_the_nearest_row():
    x, y = normal(50, 4, "x", mean=100.0), normal(77, 4, "y", mean=100.0)
    y[70] = x[3]
    table = (x[:, None] - y[None]).norm(dim=2)
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        distance, index = nearest(x.to(dtype), y.to(dtype), rows=7, columns=10)
        assert torch.equal(index, table.argmin(1))
        assert torch.allclose(distance, table.min(1).values, atol=error) and distance[3] == 0
    assert torch.equal(nearest(x, y)[1], table.argmin(1))
    with pytest.raises(BeelineError, match="both have one shape"):
        nearest(x, y[:, :2])


def test_radii_leave_the_row_itself_out():
    x = normal(40, 3, "x")
    table = (x[:, None] - x[None]).norm(dim=2)
    assert torch.allclose(radii(x, 3, rows=7), table.sort(1).values[:, 3], atol=1e-6)


def test_precision_and_recall_are_those_of_torch_fidelity(fidelity):
    theirs = importlib.import_module("torch_fidelity.metric_prc").prc_features_to_metric
    real, made = normal(300, 6, "r"), normal(250, 6, "m", mean=0.7, std=0.8)
    wanted = theirs(made, real, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=True, verbose=False)
    assert 0.1 < wanted["recall"] < 0.9
    assert Precision()(real, made, R) == pytest.approx(wanted["precision"], abs=1e-6)
    assert Recall()(real, made, R) == pytest.approx(wanted["recall"], abs=1e-6)


def test_density_and_coverage_are_the_double_sums():
    real, made = normal(60, 2, "r"), normal(40, 2, "m", mean=0.5)
    inside = (made[:, None] - real[None]).norm(dim=2) <= radii(real, 5)
    assert Density()(real, made, R) == pytest.approx(float(inside.sum()) / (5 * 40))
    assert Coverage()(real, made, R) == pytest.approx(float(inside.any(0).double().mean()))


def test_coverage_of_two_samples_of_one_distribution_has_its_expectation():
    n, k = 200, 5
    wanted = 1.0
    for i in range(1, k + 1):
        wanted *= (n - i) / (2 * n - i)
    found = [Coverage()(normal(n, 2, f"a{i}"), normal(n, 2, f"b{i}"), R) for i in range(30)]
    assert sum(found) / 30 == pytest.approx(1 - wanted, abs=0.005)
    density = [Density()(normal(n, 2, f"a{i}"), normal(n, 2, f"b{i}"), R) for i in range(30)]
    assert sum(density) / 30 == pytest.approx(1.0, abs=0.03)


def test_lost_modes_cost_recall_and_noise_costs_precision():
    real = torch.cat([normal(200, 2, "a"), normal(200, 2, "b", mean=20.0)])
    half, noisy = normal(200, 2, "c"), normal(200, 2, "d", std=30.0)
    for good, covered in ((Precision(), Recall()), (Density(), Coverage())):
        assert good(real, half, R) > 0.85 and covered(real, half, R) < 0.6
        assert good(real, noisy, R) < 0.2


def test_frechet_is_that_of_torch_fidelity(fidelity):
    module = importlib.import_module("torch_fidelity.metric_fid")
    real, made = normal(500, 40, "r").float(), normal(400, 40, "m", mean=0.3, std=1.4).float()
    stats = [module.fid_features_to_statistics(x) for x in (real, made)]
    wanted = module.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert Frechet()(real, made, R) == pytest.approx(wanted, rel=1e-5)
    mean, covariance = moments(real)
    assert covariance.numpy() == pytest.approx(stats[0]["sigma"], abs=1e-5)


def test_kid_is_that_of_torch_fidelity(fidelity):
    module = importlib.import_module("torch_fidelity.metric_kid")
    real, made = normal(500, 8, "r"), normal(400, 8, "m", mean=0.4)
    theirs = module.kid_features_to_metric(
        made, real, kid_subsets=200, kid_subset_size=100, rng_seed=2020, verbose=False,
        kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1,
    )  # fmt: skip
    mean, std = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    found = KID(subsets=200, size=100).estimate(real, made, R)
    assert found.value == pytest.approx(mean, abs=4 * std / 200**0.5)  # other subsets of the same data
    assert float(found.note.rsplit(" ", 1)[1]) == pytest.approx(std, rel=0.25)
    # the same rows give the same number
    one = Kernel()(real[:100], made[:100], R)
    gram = module.kernel_mmd(
        real[:100].numpy(), made[:100].numpy(),
        kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1,
    )  # fmt: skip
    assert one == pytest.approx(gram, rel=1e-9)


def test_the_interval_of_the_kernel_distance_covers_its_expectation():
    # the kernel (x y + 1)^3 of numbers has the features x, x^2 and x^3 with weights 3, 3 and 1
    shift = 1.0
    truth = 3 * shift**2 + 3 * (shift**2) ** 2 + (shift**3 + 3 * shift) ** 2
    inside = 0
    for i in range(40):
        x, y = normal(200, 1, f"x{i}"), normal(200, 1, f"y{i}", mean=shift)
        low, high = KID(subsets=20, size=50).estimate(x, y, Rng(i)).interval
        inside += low <= truth <= high
    assert 33 <= inside <= 40


def test_a_large_sample_is_compared_by_a_part():
    real, made = normal(2000, 2, "r"), normal(2000, 2, "m")
    assert Precision(rows=400)(real, made, Rng(1)) == pytest.approx(Precision()(real, made, R), abs=0.1)
