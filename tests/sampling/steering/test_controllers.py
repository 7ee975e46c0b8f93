"""Controllers: what the sampler asks of them, and their posterior on Gaussians."""

from __future__ import annotations

import pytest
import torch
from scipy.integrate import solve_ivp

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.controller import ControllerBase, OfRun, descent, energies_of
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.combined import Scheduled, Sum
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.energies.squared import Near
from beeline.sampling.steering.gradients.optimised import PeriodicOptimisation
from beeline.sampling.steering.gradients.training_free import TFG
from beeline.sampling.steering.operators.operator import Identity
from beeline.solvers.runge_kutta import EULER, HEUN

STANDARD = Flow(GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 1.0).field())


class Drifting:
    """A controller of the two members of the protocol."""

    def steer(self, f, flow):
        return lambda x, t: f(x, t) + 1

    def correct(self, x, t):
        return x * 2


class Counting(ControllerBase):
    """Counts the runs, and the calls and corrections of each."""

    def __init__(self):
        self.runs = []

    def for_run(self, run):
        counts = {"cond": run.cond, "times": run.times.tolist(), "corrections": 0}
        self.runs.append(counts)

        def correct(x, t):
            counts["corrections"] += 1
            return x

        return OfRun(correct=correct)

    def calls(self, t):
        return 3

    def correction_calls(self, t):
        return 1 if t < 1 else 0


def test_a_controller_of_two_members_steers_and_corrects():
    x = Sampler(2, solver=EULER, controllers=(Drifting(),))(Flow(lambda x, t, cond=None: 0 * x), torch.zeros(1, 1))
    assert float(x) == 3.0  # (0 + 0.5) 2 = 1, (1 + 0.5) 2 = 3


def test_a_controller_with_all_members_needs_no_base():
    members = {name: value for name, value in vars(ControllerBase).items() if not name.startswith("__")}
    whole = type("Whole", (), {**members, "for_run": lambda self, run: Drifting(), "calls": lambda self, t: 5})()
    sampler = Sampler(2, solver=EULER, controllers=(whole,))
    assert float(sampler(Flow(lambda x, t, cond=None: 0 * x), torch.zeros(1, 1))) == 3.0 and sampler.evaluations == 10


def test_memory_of_a_controller_begins_with_the_run():
    counting = Counting()
    for _ in range(2):
        Sampler(3, solver=EULER, controllers=(counting,))(STANDARD, torch.zeros(4, 2, dtype=torch.float64))
    assert [run["corrections"] for run in counting.runs] == [3, 3]
    assert counting.runs[0]["times"] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_evaluations_count_those_of_controllers():
    # Heun evaluates 2 x 4 drifts, each with 3 calls of 2 predictions; 3 corrections have one call of the steered drift
    sampler = Sampler(4, solver=HEUN, guidance=CFG(2.0, null=10), controllers=(Counting(),))
    assert sampler.evaluations == 8 * 3 * 2 + 3 * 3 * 2


def steered_gaussian(y: float, deviation: float) -> tuple[float, float]:
    """Mean and deviation of energy guidance of N(0, 1) towards y, from its linear equation by another integrator."""

    def slopes(t, state):
        m, s = state
        variance = t**2 + (1 - t) ** 2
        k, w = t / variance, (1 - max(t, 0.01)) / max(t, 0.01)
        pull = (2 * t - 1) / variance - w * k**2 / deviation**2
        return [pull * m + w * k * y / deviation**2, pull * s]

    mean, spread = solve_ivp(slopes, (0, 1), [0.0, 1.0], rtol=1e-9, atol=1e-9).y[:, -1]
    return float(mean), float(spread)


@pytest.mark.parametrize("seed", range(3))
def test_energy_guidance_of_a_gaussian_follows_its_equation_and_is_no_posterior(seed):
    mean, spread = steered_gaussian(1.5, 0.5)
    assert mean > 1.3 and spread < 0.4  # the posterior has the mean 1.2 and the deviation 0.447
    energy = Near(torch.full((2,), 1.5), deviation=0.5)
    x0 = Rng(seed).normal(torch.empty(4000, 2, dtype=torch.float64))
    x = Sampler(200, controllers=(EnergyGuidance(energy, damped=False),))(STANDARD, x0)
    assert float((x - (mean + spread * x0)).abs().max()) < 2e-3


def test_strength_zero_is_plain_sampling():
    x0 = Rng(0).normal(torch.empty(5, 2, dtype=torch.float64))
    steered = Sampler(4, controllers=(EnergyGuidance(Near(torch.ones(2)), strength=0.0),))(STANDARD, x0)
    assert torch.equal(steered, Sampler(4)(STANDARD, x0))


def test_descent_is_the_gradient_through_the_data():
    x = Rng(0).normal(torch.empty(3, 2, dtype=torch.float64))
    with torch.no_grad():
        value, slope, data, at_data = descent(Near(torch.zeros(2)), lambda x: 3 * x, x, torch.zeros(3))
    assert torch.allclose(slope, 9 * x) and torch.allclose(data, 3 * x) and torch.allclose(at_data, 3 * x)
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda x1, t, cond=None: x1.mean(), "one number for each sample"),
        (lambda x1, t, cond=None: 3.0, "returned float for 2 samples"),
        (lambda x1, t, cond=None: x1.sum(1) * float("nan"), "returned NaN"),
        (lambda x1, t, cond=None: x1.detach().sum(1), "without gradient"),
        (lambda x1, t, cond=None: torch.ones(2, requires_grad=True) * 2, "does not depend on the predicted data"),
    ],
)
def test_wrong_energies_are_refused(energy, message):
    with pytest.raises(BeelineError, match=message):
        Sampler(2, controllers=(EnergyGuidance(energy),))(STANDARD, torch.zeros(2, 2, dtype=torch.float64))


def test_energies_that_need_no_gradient_are_taken_as_they_are():
    assert energies_of(lambda x1, t, cond=None: x1.detach().sum(1), torch.ones(2, 3), torch.zeros(2)).tolist() == [3, 3]


@pytest.mark.parametrize("kind", [EnergyGuidance, TFG, PeriodicOptimisation])
def test_targets_of_every_sample_follow_their_samples_into_smaller_batches(kind):
    targets = Rng(1).normal(torch.empty(5, 2, dtype=torch.float64))
    energy = Sum((Scheduled(Near(targets)), Measured(Identity(), targets, noise=1.0)))
    bundle = Bundle(STANDARD, Sampler(4, controllers=(kind(energy),)), lineage={"shape": (2,)})
    assert torch.allclose(bundle.sample(5, batch_size=2), bundle.sample(5), atol=1e-6)
