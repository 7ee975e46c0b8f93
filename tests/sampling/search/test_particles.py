"""Weighted particles against exact answers: products of Gaussians, and posteriors of a Gaussian and a mixture."""

from __future__ import annotations

import pytest
import torch

import beeline as bl
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.sampling.guidance.guide import Weak
from beeline.sampling.search.particles import FeynmanKac, Particles, WeightedParticles, systematic
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.squared import Near
from beeline.solvers.diffusions import White
from beeline.solvers.sde import EulerMaruyama

UNCONDITIONAL, CONDITIONAL = Gaussian((0.0,), 2.0), Gaussian((1.5,), 1.0)
ONE = torch.zeros(1, 1, dtype=torch.float64)
GRID = torch.linspace(-6, 6, 401, dtype=torch.float64)
PLANE = torch.cartesian_prod(GRID, GRID)


def moments(search, flow, size=1):
    """Mean and covariance of the particles of one sample."""
    found = []
    search(flow, torch.zeros(1, size, dtype=torch.float64), done=found.append)
    mean, covariance = found[0].moments()
    return mean[0], covariance[0]


def exact(target, energy):
    """Mean and covariance of p exp(-E) on a grid of the plane."""
    weights = (target.log_prob(PLANE) - energy(PLANE, torch.ones(len(PLANE)))).softmax(0)
    mean = weights @ PLANE
    return mean, (PLANE - mean).T @ ((PLANE - mean) * weights[:, None])


def many(kind, steps, n, **more):
    return kind(steps, candidates=n, rows=n, **more)


@pytest.mark.parametrize("seed", range(2))
def test_particles_of_guidance_follow_the_tilted_gaussian_which_plain_guidance_does_not(seed):
    precision = -1 / 4 + 2
    wanted, variance = 2 * 1.5 / precision, 1 / precision  # p_u^-1 p_c^2
    weak = Weak(UNCONDITIONAL.field())
    search = many(FeynmanKac, 100, 8000, powers=(2.0, -1.0), references=(weak,), rng=bl.Rng(seed))
    mean, covariance = moments(search, CONDITIONAL.flow())
    assert abs(float(mean) - wanted) < 0.05 and abs(float(covariance) - variance) < 0.08
    guide = bl.Guide(weak, bl.guidance.Extrapolate(2.0))
    x0 = bl.Rng(seed).normal(torch.empty(4000, 1, dtype=torch.float64))
    for solver in (bl.solvers.HEUN, EulerMaruyama(White(bl.Rng(seed)))):
        plain = bl.Sampler(100, solver=solver, guidance=guide)(CONDITIONAL.flow(), x0)
        assert abs(float(plain.mean()) - wanted) > 0.05 and abs(float(plain.var()) - variance) > 0.08


@pytest.mark.parametrize(
    ("powers", "references"),
    [
        ((3.0,), ()),
        ((0.5,), ()),
        ((1.0, 1.0), (Weak(UNCONDITIONAL.field()),)),
        ((0.5, 0.5), (Weak(UNCONDITIONAL.field()),)),
    ],
)
def test_annealing_products_and_means_of_gaussians(powers, references):
    parts = [(1.5, 1.0), (0.0, 4.0)]
    precision = sum(w / v for w, (_, v) in zip(powers, parts, strict=False))
    wanted = sum(w * m / v for w, (m, v) in zip(powers, parts, strict=False)) / precision
    search = many(FeynmanKac, 100, 8000, powers=powers, references=references)
    mean, covariance = moments(search, CONDITIONAL.flow())
    assert abs(float(mean) - wanted) < 0.05 and abs(float(covariance) * precision - 1) < 0.08


def test_annealing_of_a_mixture_weighs_its_modes_again():
    target = GaussianMixture([[-2.0], [1.5]], (0.3, 0.5), (0.3, 0.7))
    x = GRID[:, None]
    weights = (0.5 * target.log_prob(x)).softmax(0)
    wanted = weights @ x
    search = many(FeynmanKac, 100, 8000, powers=(0.5,), deviation=1.67)
    mean, covariance = moments(search, target.flow())
    assert float((mean - wanted).abs()) < 0.06
    assert float(covariance / (weights @ (x - wanted).square())) == pytest.approx(1, abs=0.05)


def test_weights_do_not_depend_on_the_diffusion_and_on_the_path():
    for path in (bl.paths.Cosine(), bl.paths.VariancePreserving()):
        solver = EulerMaruyama(White(bl.Rng(0)), path=path)
        search = many(FeynmanKac, 80, 5000, powers=(1.5,), solver=solver)
        mean, covariance = moments(search, bl.Flow(CONDITIONAL.field(path), path))
        assert abs(float(mean) - 1.5) < 0.05 and abs(float(covariance) - 1 / 1.5) < 0.08


GAUSSIAN = Gaussian((0.5, -0.5), covariance=((1.0, 0.6), (0.6, 0.8)))
TWO = GaussianMixture([[-1.5, 0.0], [1.5, 1.0]], (0.6, 0.8), (0.4, 0.6))
NEAR = Near((1.2, 0.3), 0.7)


@pytest.mark.slow
@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize(
    ("target", "energy"), [(GAUSSIAN, NEAR), (TWO, Near((0.4, 0.3), 0.8))], ids=["Gaussian", "mixture"]
)
def test_posteriors_are_exact_with_many_particles(target, energy, steered):
    controllers = (EnergyGuidance(energy, 0.7),) if steered else ()
    search = many(Particles, 100, 60_000, energy=energy, controllers=controllers)
    mean, covariance = moments(search, target.flow(), 2)
    wanted, spread = exact(target, energy)
    assert float((mean - wanted).norm() / wanted.norm()) < 0.02
    assert float((covariance - spread).norm() / spread.norm()) < 0.05


@pytest.mark.parametrize("steered", [False, True])
def test_posterior_of_a_gaussian_which_energy_guidance_alone_misses(steered):
    controllers = (EnergyGuidance(NEAR),) if steered else ()
    wanted, spread = exact(GAUSSIAN, NEAR)
    search = many(Particles, 50, 8000, energy=NEAR, controllers=controllers)
    mean, covariance = moments(search, GAUSSIAN.flow(), 2)
    assert float((mean - wanted).norm() / wanted.norm()) < 0.05
    assert float((covariance - spread).norm() / spread.norm()) < 0.08
    alone = bl.Sampler(50, solver=EulerMaruyama(White(bl.Rng(0))), controllers=(EnergyGuidance(NEAR, damped=False),))
    x = alone(GAUSSIAN.flow(), bl.Rng(1).normal(torch.empty(4000, 2, dtype=torch.float64)))
    assert float((x.T.cov() - spread).norm() / spread.norm()) > 0.2


def test_single_samples_of_small_groups_follow_the_posterior():
    x0 = bl.Rng(3).normal(torch.empty(1500, 2, dtype=torch.float64))
    search = Particles(25, energy=NEAR, candidates=16, rows=10**6).seeded(range(1500), 0)
    x = search(GAUSSIAN.flow(), x0)
    wanted, spread = exact(GAUSSIAN, NEAR)
    assert bool(((x.mean(0) - wanted).abs() < 4 * (spread.diagonal() / 1500).sqrt() + 0.03).all())
    assert float((x.T.cov() - spread).norm() / spread.norm()) < 0.15


def test_systematic_resampling_takes_every_particle_as_often_as_its_weight_says():
    weights = torch.tensor([[0.5, 0.1, 0.25], [0.25, 0.6, 0.25], [0.0, 0.1, 0.25], [0.25, 0.2, 0.25]]).double()
    log_weights = weights.log().clamp(min=-1e30)
    u = torch.tensor([0.0, 0.3, 0.999999]).double()
    n = 40
    index = systematic(log_weights, u, n)
    counts = torch.nn.functional.one_hot(index, 4).sum(0).T
    assert bool(((counts - n * weights).abs() < 1).all()) and bool(counts[2, 0] == 0)
    mean = torch.stack([systematic(log_weights, torch.full((3,), k / 50).double(), 1)[0] for k in range(50)])
    assert torch.allclose(torch.nn.functional.one_hot(mean, 4).double().mean(0).T, weights, atol=0.021)


def test_particles_are_resampled_below_the_threshold_alone():
    class Fixed(WeightedParticles):
        def _moves(self, flow, path, x, cond):
            raise NotImplementedError

    weights = torch.tensor([[0.97, 0.25], [0.01, 0.25], [0.01, 0.25], [0.01, 0.25]]).double()
    index, log_w = Fixed(2, candidates=4)._resampled(weights.log(), torch.tensor([0.5, 0.5]).double())
    assert index[:, 1].tolist() == [0, 1, 2, 3] and index[:, 0].tolist() == [0, 0, 0, 0]
    assert bool((log_w[:, 0] == 0).all()) and torch.allclose(log_w[:, 1].exp(), weights[:, 1])
    index, log_w = Fixed(2, candidates=4, threshold=0.0)._resampled(weights.log(), torch.tensor([0.5, 0.5]).double())
    assert index[:, 0].tolist() == [0, 1, 2, 3]


def test_conditions_are_not_mixed():
    """Particles of one sample never replace those of another: every sample stays at its own condition."""
    flow = bl.Flow(lambda x, t, cond: (10 * cond["c"] - x) / (1 - t[:, None]))
    cond = {"c": torch.arange(6.0, dtype=torch.float64)[:, None]}
    search = Particles(5, energy=lambda x1, t, cond=None: x1.sum(1), candidates=5, threshold=1.0)
    made = search(flow, torch.zeros(6, 1, dtype=torch.float64), cond)
    assert torch.allclose(made, 10 * cond["c"])
