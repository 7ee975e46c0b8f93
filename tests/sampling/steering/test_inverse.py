"""Controllers for linear inverse problems against exact posteriors."""

from __future__ import annotations

import math

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.paths.affine import Cosine, Linear
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.inverse.moments import MomentMatching
from beeline.sampling.steering.inverse.pulls import PseudoInverse, Pull, Replacement
from beeline.sampling.steering.inverse.residuals import pulled
from beeline.sampling.steering.operators.masks import Mask
from beeline.sampling.steering.operators.operator import Identity, Magnitudes
from beeline.sampling.steering.operators.projections import Matrix

MEAN = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.5, 0.9, 0.2], [0.9, 1.0, -0.3], [0.2, -0.3, 0.6]], dtype=torch.float64)
CORRELATED = Gaussian(tuple(MEAN.tolist()), covariance=tuple(map(tuple, COVARIANCE.tolist())))


def posterior(mean, covariance, matrix, y, noise):
    """Mean and covariance of x given y = A x + noise z."""
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + noise**2 * torch.eye(len(matrix)))
    return mean + gain @ (y - matrix @ mean), covariance - gain @ matrix @ covariance


def moments_of(flow, controller, dim=3, steps=40):
    """Mean and covariance of the samples of a flow that is affine in its source point, without Monte Carlo error."""
    x0 = torch.cat([torch.zeros(1, dim), torch.eye(dim)]).double()
    x = Sampler(steps, controllers=(controller,))(flow, x0)
    slopes = x[1:] - x[0]
    return x[0], slopes.T @ slopes


def far(found, want):
    return float((found - want).norm() / want.norm())


@pytest.mark.parametrize("path", [Linear(), Cosine()])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_moment_matching_samples_the_posterior_of_a_correlated_gaussian(path, noise):
    matrix, y = (
        torch.tensor([[1.0, 0.0, 0.0], [0.3, 1.0, -1.0]], dtype=torch.float64),
        torch.tensor([2.0, 0.7]).double(),
    )
    want, spread = posterior(MEAN, COVARIANCE, matrix, y, noise)
    solver = MomentMatching(Measured(Matrix(matrix), y, noise), iterations=2)
    mean, covariance = moments_of(Flow(CORRELATED.field(path), path), solver)
    assert far(mean, want) < 0.02 and far(covariance, spread) < 0.05


@pytest.mark.parametrize("path", [Linear(), Cosine()])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_energy_guidance_is_exact_for_one_measurement_of_correlated_data(path, noise):
    """With the variance of the datum along the measurement; without it, that of the samples is too small."""
    matrix, y = torch.tensor([[1.0, -0.5, 0.3]]).double(), torch.tensor([1.3]).double()
    energy = Measured(Matrix(matrix), y, noise)
    want, spread = posterior(MEAN, COVARIANCE, matrix, y, noise)
    flow = Flow(CORRELATED.field(path), path)
    mean, covariance = moments_of(flow, EnergyGuidance(energy))
    assert far(mean, want) < 0.002 and far(covariance, spread) < 0.005
    _, covariance = moments_of(flow, EnergyGuidance(energy, damped=False))
    assert far(covariance, spread) > 0.1


@pytest.mark.parametrize("kind", [Pull, PseudoInverse])
def test_cheap_controllers_are_exact_for_independent_data_and_biased_for_correlated_ones(kind):
    matrix, y = torch.eye(2, dtype=torch.float64)[:1], torch.tensor([1.0]).double()
    measured = Measured(Mask((1, 0)), torch.tensor([1.0, 0.0]).double(), 0.3)
    for rho, exact in ((0.0, True), (0.8, False)):
        covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
        data = Gaussian((0.0, 0.0), covariance=tuple(map(tuple, covariance.tolist())))
        want, spread = posterior(torch.zeros(2).double(), covariance, matrix, y, 0.3)
        mean, found = moments_of(Flow(data.field()), kind(measured), dim=2)
        assert (far(mean, want) < 0.02 and far(found, spread) < 0.05) == exact


def test_replacement_follows_the_measurement_too_little():
    data = Gaussian((0.0, 0.0), covariance=((1.0, 0.8), (0.8, 1.0)))
    replaced = Replacement(Measured(Mask((1, 0)), torch.tensor([1.0, 0.0])))
    x0 = Rng(0).normal(torch.empty(4000, 2, dtype=torch.float64))
    x = Sampler(40, controllers=(replaced,))(Flow(data.field()), x0)
    assert torch.equal(x[:, 0], torch.ones(4000).double())
    assert 0.3 < float(x[:, 1].mean()) < 0.5  # the posterior has 0.8
    solved = MomentMatching(Measured(Mask((1, 0)), torch.tensor([1.0, 0.0]), 0.01), iterations=1)
    assert moments_of(Flow(data.field()), solved, dim=2)[0].tolist() == pytest.approx([1.0, 0.8], abs=0.01)


MODES = torch.tensor([[-1.0, -2.0], [1.0, 2.0]], dtype=torch.float64)
MIXTURE = GaussianMixture(tuple(map(tuple, MODES.tolist())), 0.5)


def test_moment_matching_finds_the_mode_of_a_mixture_and_is_biased_between_modes():
    x0 = Rng(0).normal(torch.empty(1000, 2, dtype=torch.float64))

    def mean(y, noise):
        solver = MomentMatching(Measured(Mask((1, 0)), torch.tensor([y, 0.0]), noise), iterations=1)
        found = Sampler(20, controllers=(solver,))(Flow(MIXTURE.field()), x0).mean(0)
        share = torch.softmax(-((y - MODES[:, 0]) ** 2) / (2 * (0.25 + noise**2)), 0)
        gain = 0.25 / (0.25 + noise**2)
        means = torch.stack([MODES[:, 0] + gain * (y - MODES[:, 0]), MODES[:, 1]], 1)
        return found, share @ means

    assert far(*mean(1.2, 0.2)) < 0.1
    assert far(*mean(0.3, 0.6)) > 0.1


def test_a_batch_with_a_measurement_for_each_sample_is_divided_by_rows():
    flow, y = Flow(CORRELATED.field()), Rng(1).normal(torch.empty(5, 3, dtype=torch.float64))
    masks = (Rng(2).normal(torch.empty(5, 3)) > 0).float()
    x0 = Rng(0).normal(torch.empty(5, 3, dtype=torch.float64))
    for kind in (MomentMatching, PseudoInverse, Pull, Replacement):
        sampler = Sampler(6, controllers=(kind(Measured(Mask(masks), y, 0.1)),)).seeded(range(5))
        whole = sampler(flow, x0)
        parts = [sampler.for_rows(0, 4).for_rows(2, 4)(flow, x0[2:4]), sampler.for_rows(4, 5)(flow, x0[4:])]
        assert torch.allclose(torch.cat(parts), whole[2:], atol=1e-9)


@pytest.mark.parametrize("kind", [MomentMatching, PseudoInverse, Pull, Replacement])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_times_are_finite_for_networks_in_16_bits(kind, dtype):
    with Rng(0).ambient():
        net = Network(MLP(3, width=16, depth=1)).to(dtype)
    y = torch.tensor([0.4, -0.2, float("nan")])
    solver = kind(Measured(Mask((1, 1, 0)), y, 0.01))
    f = solver.steer(lambda x, t: net(x.to(dtype), t).float(), Flow(net))
    for t in (0.0, 1e-6, 0.03, 0.5, 1 - 1e-6, 1.0):
        assert bool(f(torch.ones(2, 3), torch.full((2,), t)).isfinite().all())
    assert bool(Sampler(4, controllers=(solver,))(Flow(net), torch.ones(2, 3)).isfinite().all())


def test_one_forward_pass_serves_the_prediction_and_all_products():
    calls = []

    def field(x, t, cond=None):
        calls.append(float(t[0]))
        return CORRELATED.field()(x, t)

    solver = MomentMatching(Measured(Mask((1, 1, 0)), torch.zeros(3)), iterations=4)
    sampler = Sampler(4, controllers=(solver,))
    sampler(Flow(field), torch.zeros(2, 3, dtype=torch.float64))
    assert len(calls) == sampler.evaluations == 8 + 1  # t = 0 takes a second one


@pytest.mark.parametrize("symmetric", [True, False])
def test_systems_are_solved_in_as_many_iterations_as_values(symmetric):
    root = Rng(0).normal(torch.empty(4, 4, dtype=torch.float64))
    matrix, right = root @ root.T, Rng(1).normal(torch.empty(3, 4, dtype=torch.float64))
    matrix = matrix if symmetric else matrix + root / 4
    found = pulled(lambda p: (2 * p, p @ matrix.T), right, 0.1, 4)
    assert torch.allclose(found, 2 * right @ torch.linalg.inv(matrix.T + 0.1 * torch.eye(4)), atol=1e-8)
    zero = torch.zeros_like(right)
    assert torch.equal(pulled(lambda p: (p, 0 * p), right, 0.0, 2), zero)
    assert torch.equal(pulled(lambda p: (p, p), zero, 0.1, 2), zero)


def test_the_residual_never_grows():
    """A derivative with errors, under which conjugate gradients grow without bound."""
    matrix = Rng(0).normal(torch.empty(6, 6, dtype=torch.float64))
    right = Rng(1).normal(torch.empty(8, 6, dtype=torch.float64))
    left = [right - pulled(lambda p: (p @ matrix.T, p @ matrix.T), right, 0.0, k) for k in range(1, 7)]
    sizes = torch.stack([right.norm(dim=1), *(rest.norm(dim=1) for rest in left)])
    assert bool((sizes[1:] <= sizes[:-1] + 1e-9).all()) and float(sizes[-1].max()) < 1e-6


def detached(x, t, cond=None):
    return x.detach()


@pytest.mark.parametrize(
    ("make", "field", "message"),
    [
        (lambda: MomentMatching(Measured(Magnitudes(Identity()), torch.zeros(3))), None, "is not linear"),
        (lambda: Pull(Measured(Identity(), torch.zeros(4))), None, r"shape \(4,\), and Identity gives"),
        (lambda: Pull(Measured(Identity(), torch.zeros(4, 3))), None, "one row of them for each of the 2"),
        (lambda: Pull(Measured(Identity(), torch.full((3,), math.nan))), None, "contain NaN"),
        (lambda: MomentMatching(Measured(Identity(), torch.zeros(3))), detached, "has no gradient"),
        (lambda: Pull(Identity()), None, "give Measured"),
        (lambda: Measured(Identity(), torch.zeros(3), noise=0.0), None, "noise=0.0"),
    ],
)
def test_problems_that_cannot_be_solved_are_refused(make, field, message):
    with pytest.raises(BeelineError, match=message):
        flow = Flow(field or CORRELATED.field())
        Sampler(2, controllers=(make(),))(flow, torch.zeros(2, 3, dtype=torch.float64))


def test_magnitudes_are_measured_through_their_energy():
    """A measurement without sign: the samples have its magnitude, on both sides."""
    measured = Measured(Magnitudes(Mask((1, 0, 0))), torch.tensor([1.5, 0.0, 0.0]), 0.2)
    x0 = Rng(0).normal(torch.empty(200, 3, dtype=torch.float64))
    flow = Flow(Gaussian((0.0, 0.0, 0.0)).field())
    x = Sampler(40, controllers=(EnergyGuidance(measured),))(flow, x0)
    assert float((x[:, 0].abs() - 1.5).square().mean().sqrt()) < 0.25
    assert 0.3 < float((x[:, 0] > 0).double().mean()) < 0.7
