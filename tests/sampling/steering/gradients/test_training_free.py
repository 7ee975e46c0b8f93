"""Training-free guidance: steps of published methods written out, their cost, and what they do to a Gaussian."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow
from beeline.sampling.guidance.rules.scales import Rising
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.squared import Near
from beeline.sampling.steering.gradients.estimates import SeveralSteps
from beeline.sampling.steering.gradients.optimised import PeriodicOptimisation
from beeline.sampling.steering.gradients.placements import NoiseKept, StateKept, VelocityKept
from beeline.sampling.steering.gradients.training_free import TFG
from beeline.solvers.diffusions import White
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.solvers.time_travel import TimeTravel

RING = GaussianMixture.ring()
FIELD = RING.field()
FLOW = Flow(FIELD)
STEPS = 6


def energy(x1, t, cond=None):
    return (x1[:, 0] - 2.83).square() / 2 + (x1[:, 1] / 3).cos()


def slope(x):
    """The gradient of the energy, by hand."""
    return torch.stack([x[:, 0] - 2.83, -(x[:, 1] / 3).sin() / 3], 1)


def velocity(x, a):
    with torch.no_grad():
        return FIELD(x, torch.full((len(x),), a, dtype=x.dtype))


def through(x, a, wanted=lambda x1: energy(x1, None).sum()):
    """The gradient of an energy of the mean datum with respect to the state."""
    x = x.clone().requires_grad_()
    wanted(x + (1 - a) * FIELD(x, torch.full((len(x),), a, dtype=x.dtype))).backward()
    return x.grad


def written(step, x, start=0.0):
    """Samples by a step (x, a, b) -> x that a test writes out."""
    for a, b in itertools.pairwise(np.linspace(start, 1, STEPS + 1).tolist()):
        x = step(x, a, b)
    return x


def points(n=5):
    return Rng(0).normal(torch.empty(n, 2, dtype=torch.float64))


def steered(*controllers, start=0.0, solver=EULER):
    return Sampler(STEPS, solver=solver, controllers=controllers)(FLOW, points(), start=start)


def test_dps():
    made = steered(TFG(energy, rho=0.3 * STEPS, mu=0.0))
    by_hand = written(lambda x, a, b: x + (b - a) * velocity(x, a) - 0.3 * through(x, a), points())
    assert torch.allclose(made, by_hand, atol=1e-12)


def test_loss_guided_diffusion():
    made = steered(TFG(energy, rho=0.3 * STEPS, mu=0.0, gamma=0.5, samples=3, rng=Rng(7)))
    noise = Rng(7).fork("smoothed").normal(torch.empty(3, 2, dtype=torch.float64))

    def step(x, a, b):
        def smooth(x1):
            likelihoods = [torch.exp(-energy(x1 + 0.5 * (1 - a) * z, None)) for z in noise]
            return -torch.log(torch.stack(likelihoods).mean(0)).sum()

        return x + (b - a) * velocity(x, a) - 0.3 * through(x, a, smooth)

    assert torch.allclose(made, written(step, points()), atol=1e-12)


def test_freedom():
    noise = White(Rng(3))
    solver = TimeTravel(noise, repeats=3, window=(0.3, 0.7))
    made = steered(TFG(energy, rho=0.3 * STEPS, mu=0.0), solver=solver)

    def step(x, a, b):
        at = [torch.full((len(x),), c, dtype=x.dtype) for c in (a, b)]
        for k in range(3 if 0.3 <= a <= 0.7 else 1):
            if k:
                z = noise(at[1], at[0], x, k)
                x = (a / b) * x + ((1 - a) ** 2 - ((a / b) * (1 - b)) ** 2) ** 0.5 * z
            x = x + (b - a) * velocity(x, a) - 0.3 * through(x, a)
        return x

    assert torch.allclose(made, written(step, points()), atol=1e-12)


def test_manifold_preserving_guided_diffusion():
    made = steered(TFG(energy, rho=0.0, mu=0.3 * STEPS, iterations=1))

    def step(x, a, b):
        v = velocity(x, a)
        data, noise = x + (1 - a) * v, x - a * v
        return b * (data - 0.3 * slope(data)) + (1 - b) * noise

    assert torch.allclose(made, written(step, points()), atol=1e-12)


def test_universal_guidance():
    backward = TFG(energy, rho=0.0, mu=0.2, iterations=3, kept=StateKept())
    made = steered(EnergyGuidance(energy, strength=0.5, damped=False), backward, start=0.1)

    def step(x, a, b):
        noise = x - a * velocity(x, a) + 0.5 * (1 - a) * through(x, a)
        data = (x - (1 - a) * noise) / a
        move = torch.zeros_like(x)
        for _ in range(3):
            move = move - 0.2 * slope(data + move)
        noise = noise - a / (1 - a) * move
        data = (x - (1 - a) * noise) / a
        return b * data + (1 - b) * noise

    assert torch.allclose(made, written(step, points(), start=0.1), atol=1e-11)


def test_flowchef():
    made = steered(TFG(energy, rho=0.0, mu=0.1 * STEPS, iterations=2, kept=VelocityKept()))

    def step(x, a, b):
        u = velocity(x, a)
        for _ in range(2):
            x = x - 0.1 * slope(x + (1 - a) * u)
        return x + (b - a) * u

    assert torch.allclose(made, written(step, points()), atol=1e-12)


def test_all_parameters_at_once():
    made = steered(TFG(energy, rho=0.3, mu=0.2, iterations=2, rho_shape=Rising()))

    def step(x, a, b):
        v = velocity(x, a)
        data, noise, h = x + (1 - a) * v, x - a * v, b - a
        moved = data
        for _ in range(2):
            moved = moved - 0.2 * h * slope(moved)
        return b * moved + (1 - b) * noise - 0.3 * h * 2 * a * through(x, a)

    assert torch.allclose(made, written(step, points()), atol=1e-12)


def test_clipped_gradients_have_a_largest_norm():
    made = steered(TFG(energy, rho=0.3 * STEPS, mu=0.0, clip=0.5))

    def step(x, a, b):
        g = through(x, a)
        return x + (b - a) * velocity(x, a) - 0.3 * g * (0.5 / g.norm(dim=1, keepdim=True)).clamp(max=1)

    assert torch.allclose(made, written(step, points()), atol=1e-12)


def test_sizes_of_zero_are_plain_sampling():
    assert torch.equal(steered(TFG(energy, rho=0.0, mu=0.0)), steered())


def test_gradients_at_the_datum_need_no_gradient_of_the_network():
    def field(x, t, cond=None):
        return torch.from_numpy(velocity(x, float(t[0])).numpy().copy())

    frozen = Sampler(STEPS, solver=EULER, controllers=(TFG(energy, rho=0.0, mu=1.0, kept=VelocityKept()),))
    assert torch.allclose(frozen(Flow(field), points()), frozen(FLOW, points()), atol=1e-12)


def test_periodic_optimisation_leads_the_datum_of_some_steps_to_the_minimum():
    # two steps of 0.5: in the second the datum becomes (1, -1), and the noise has the weight 0
    target = Near((1.0, -1.0))
    made = Sampler(2, solver=EULER, controllers=(PeriodicOptimisation(target, every=2, iterations=400, lr=0.1),))
    assert torch.allclose(made(FLOW, points()), torch.tensor([1.0, -1.0]).double().expand(5, 2), atol=1e-3)


def test_an_optimisation_that_is_never_due_is_plain_sampling():
    assert torch.equal(steered(PeriodicOptimisation(energy, every=STEPS + 1)), steered())


def test_optimised_samples_do_not_depend_on_their_batch():
    optimised = PeriodicOptimisation(energy, every=2)
    sampler = Sampler(STEPS, solver=EULER, controllers=(optimised,))
    assert torch.allclose(sampler(FLOW, points())[:2], sampler(FLOW, points()[:2]), atol=1e-12)


def test_repeats_of_the_flow_itself_keep_its_distribution():
    target = GaussianMixture(((1.0,),), 0.5)
    x0 = Rng(0).normal(torch.empty(20_000, 1, dtype=torch.float64))
    x = Sampler(40, solver=TimeTravel(repeats=2, solver=HEUN))(Flow(target.field()), x0)
    assert abs(float(x.mean()) - 1) < 0.02 and abs(float(x.std()) - 0.5) < 0.02


class Counting:
    """The field of the ring, which counts its evaluations."""

    def __init__(self):
        self.count = 0

    def __call__(self, x, t, cond=None):
        self.count += 1
        return FIELD(x, t, cond)


@pytest.mark.parametrize(
    "controllers",
    [
        (TFG(energy),),
        (TFG(energy, rho=0.0),),
        (TFG(energy, estimate=SeveralSteps(3)),),
        (EnergyGuidance(energy, estimate=SeveralSteps(2)), TFG(energy, estimate=SeveralSteps(2))),
        (PeriodicOptimisation(energy, every=2),),
    ],
)
@pytest.mark.parametrize("solver", [EULER, HEUN, TimeTravel(repeats=3, window=(0.2, 0.6))])
def test_evaluations_are_those_of_the_field(controllers, solver):
    field = Counting()
    sampler = Sampler(4, solver=solver, controllers=controllers)
    sampler(Flow(field), points())
    assert field.count == sampler.evaluations


@pytest.mark.parametrize("kept", [NoiseKept(), StateKept(), VelocityKept()])
def test_guidance_of_a_gaussian_follows_its_equation_and_varies_too_little(kept):
    y, deviation, rho, mu = 1.5, 0.5, 0.2, 0.3
    weight = {NoiseKept: lambda t: t, StateKept: lambda t: 1 / max(1 - t, 1e-3), VelocityKept: lambda t: 1.0}[
        type(kept)
    ]

    def slopes(t, state):
        m, s = state
        variance = t**2 + (1 - t) ** 2
        k = t / variance  # the mean datum is k x
        pull = rho * k + mu * weight(t)
        return [(2 * t - 1) / variance * m - pull * (k * m - y) / deviation**2,
                (2 * t - 1) / variance * s - pull * k * s / deviation**2]  # fmt: skip

    mean, spread = solve_ivp(slopes, (0, 0.95), [0.0, 1.0], rtol=1e-9, atol=1e-9).y[:, -1]
    flow = Flow(GaussianMixture(((0.0,),), 1.0).field())
    guided = TFG(Near((y,), deviation=deviation), rho=rho, mu=mu, iterations=1, kept=kept)
    x0 = Rng(1).normal(torch.empty(50, 1, dtype=torch.float64))
    times = torch.linspace(0, 0.95, 201, dtype=torch.float64)
    x = integrate(guided.steer(lambda x, t: flow.field(x, t), flow), x0, times, HEUN)
    assert float((x - (mean + spread * x0)).abs().max()) < 1e-3
    posterior = (0.95**2 * 0.2 + 0.05**2) ** 0.5  # deviation at this time
    assert spread < posterior - 0.1


def test_guidance_of_a_gaussian_with_more_steps_changes_little():
    energy = Near((1.5,), deviation=0.5)
    flow = Flow(GaussianMixture(((0.0,),), 1.0).field())
    x0 = Rng(1).normal(torch.empty(50, 1, dtype=torch.float64))
    few, many = (Sampler(n, solver=EULER, controllers=(TFG(energy, rho=0.2, mu=0.2),))(flow, x0) for n in (50, 400))
    assert float((few - many).abs().max()) < 0.05


@pytest.mark.parametrize("kind", [TimeTravel])
def test_a_window_outside_the_unit_interval_is_refused(kind):
    with pytest.raises(ValueError, match="no interval of times"):
        kind(window=(0.7, 0.2))


def test_time_travel_towards_the_source_is_refused():
    with pytest.raises(ValueError, match="towards the source"):
        Sampler(2, solver=TimeTravel()).invert(FLOW, points())


def test_periodic_optimisation_needs_the_steps_of_a_run():
    with pytest.raises(ValueError, match="without the times of a run"):
        PeriodicOptimisation(energy).steer(lambda x, t: x, FLOW)
