"""Straightness, cost, counting and likelihood against closed forms."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn

from beeline.core.declared import as_map
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.density.likelihood import bits_per_dimension
from beeline.evaluation.trajectory import Likelihood, counted, draw, straightness, transport_cost
from beeline.fields.flow import Flow, MapNetwork, Network
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Weak
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER, HEUN, RK4, FlowMapStep
from beeline.times.schedules import Shifted

DOUBLE = torch.empty(64, 3, dtype=torch.float64)


def test_a_straight_flow_has_straightness_zero_and_the_cost_of_its_shift():
    shift = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    flow = Flow(lambda x, t, cond=None: shift.expand_as(x))
    x0 = Rng(0).normal(DOUBLE)
    found = straightness(flow, x0, Sampler(steps=5, schedule=Shifted(3.0)))
    assert found.value < 1e-12 and found.relative < 1e-12
    assert found.transport == pytest.approx(9.0)
    assert float(transport_cost(flow, x0, Sampler(steps=1, solver=EULER)).mean()) == pytest.approx(9.0)


def test_straightness_between_gaussians_is_the_analytic_value():
    # Z_t = s(t) Z_0 with s(t) = sqrt((1-t)^2 + t^2 sigma^2), so v = s'(t) Z_0 and Z_1 - Z_0 = (sigma - 1) Z_0
    sigma = 3.0
    speed = lambda t: (t * sigma**2 - (1 - t)) / math.sqrt((1 - t) ** 2 + t**2 * sigma**2)  # noqa: E731
    wanted = quad(lambda t: (sigma - 1 - speed(t)) ** 2, 0, 1)[0]
    flow = Gaussian((0.0,) * 3, std=sigma).flow()
    x0 = Rng(0).normal(DOUBLE)
    square = float(x0.square().sum(1).mean())
    errors = []
    for steps in (50, 200):
        found = straightness(flow, x0, Sampler(steps=steps, solver=RK4), batch_size=30)
        errors.append(abs(found.value - wanted * square) / (wanted * square))
        assert found.transport == pytest.approx((sigma - 1) ** 2 * square, rel=1e-5)
        assert found.relative == pytest.approx(found.value / found.transport)
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.3)  # the trapezoidal rule is of second order


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(steps=3),
        Sampler(steps=4, solver=EULER),
        Sampler(steps=2, solver=RK4),
        Sampler(steps=4, guidance=CFG(2.0, null=3)),
        Sampler(steps=5, solver=EULER, guidance=CFG(2.0, null=3, window=(0.3, 0.7))),
        Sampler(steps=3, guidance=Guide(Weak(lambda x, t, cond=None: -x), Extrapolate(2.0))),
    ],
)
@pytest.mark.parametrize("module", [False, True])
def test_counted_evaluations_are_those_the_sampler_promises(sampler, module):
    class Scale(nn.Module):
        def forward(self, x, t, cond=None, s=None):
            return x * (1 + cond[:, None])

    field = Network(Scale()) if module else (lambda x, t, cond=None: x * (1 + cond[:, None]))
    x0, cond = torch.ones(7, 2), torch.arange(7)
    with counted(Flow(field), sampler) as (flow, same, counter):
        made = draw(flow, same, x0, cond, batch_size=3)
    assert counter.rows / 7 == sampler.evaluations
    assert torch.equal(made, draw(Flow(field), sampler, x0, cond))
    draw(Flow(field), sampler, x0, cond)
    assert counter.rows / 7 == sampler.evaluations  # the hook is gone


@pytest.mark.parametrize("module", [False, True])
def test_a_flow_map_is_counted_too(module):
    class Shift(nn.Module):
        def forward(self, x, t, cond=None, s=None):
            return torch.ones_like(x)

    field = MapNetwork(Shift()) if module else as_map(lambda x, t, cond=None, s=None: torch.ones_like(x))
    with counted(Flow(field), Sampler(steps=2, solver=FlowMapStep())) as (flow, sampler, counter):
        assert torch.allclose(draw(flow, sampler, torch.zeros(5, 2)), torch.ones(5, 2))
    assert counter.rows / 5 == 2 and counter.calls == 2


def test_likelihood_of_a_gaussian_in_bits_is_the_closed_form():
    distribution = Gaussian((1.0, -1.0), std=(0.5, 2.0))
    x1 = distribution.sample(40, Rng(0), dtype=torch.float64)
    got = Likelihood(steps=60, solver=HEUN, batch=16)(distribution.flow(), x1, Rng(1))
    assert torch.allclose(got, distribution.log_prob(x1), atol=2e-3)
    wide = Gaussian((0.0,) * 20, std=0.5)
    x1 = wide.sample(30, Rng(0), dtype=torch.float64)
    got = Likelihood(steps=60)(wide.flow(), x1, Rng(1))  # 20 coordinates: Hutchinson, exact on a diagonal Jacobian
    assert torch.allclose(got, wide.log_prob(x1), atol=1e-2)
    # entropy of a unit normal in bits, plus the offset of 8-bit values in [-1, 1]
    each = bits_per_dimension(torch.full((1,), -0.5 * math.log(2 * math.pi * math.e)), 1)
    assert float(each) == pytest.approx(0.5 * math.log2(2 * math.pi * math.e) + 7)


def test_reflow_makes_a_bent_flow_straighter():
    distribution = GaussianMixture.ring(8)
    x0 = Rng(0).normal(torch.empty(200, 2))
    bent = straightness(distribution.flow(), x0, Sampler(steps=50))
    assert bent.relative > 0.1
    pairs = draw(distribution.flow(), Sampler(steps=50), x0)
    # the exact field of the pairs on their own trajectories
    straight = straightness(Flow(lambda x, t, cond=None: pairs - x0), x0, Sampler(steps=5))
    assert straight.relative < 1e-10
    assert straight.transport == pytest.approx(bent.transport, rel=1e-5)


def test_no_data_and_conditions_of_another_number_are_refused():
    with pytest.raises(BeelineError, match="the condition label has 3 rows for 4 samples"):
        draw(Gaussian((0.0,)).flow(), Sampler(1), torch.zeros(4, 1), {"label": torch.zeros(3)})
    with pytest.raises(BeelineError, match="x1 is empty"):
        Likelihood()(Gaussian((0.0,)).flow(), torch.zeros(0, 1), Rng(0))
