"""Planning: plans of sums of steps have their exact distribution, and actions follow the inverse dynamics."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Flow
from beeline.objectives.heads import Head
from beeline.objectives.regression import Regression
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.planner import Planner
from beeline.sampling.sampler import Sampler
from beeline.times.composed import Continued
from beeline.times.samplers import Uniform
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine

STATES = 5
SUMS = torch.minimum(*torch.meshgrid(torch.arange(1.0, STATES), torch.arange(1.0, STATES), indexing="ij")).double()


def sums(x, t, cond=None):
    """The exact velocity of sums of steps from a given state, of drift cond["return"] (0 for none); x [B,5,2]."""
    assert bool((t[:, 0] == 1).all()) and bool((t[:, 1:] == t[:, 1:2]).all())
    at, drift = t[0, 1], 0.0 if cond is None else cond["return"][:, None]
    mean = x[:, :1] + drift * torch.arange(1.0, STATES).double()[:, None]
    joint = at**2 * SUMS + (1 - at) ** 2 * torch.eye(STATES - 1).double()
    slope = at * SUMS - (1 - at) * torch.eye(STATES - 1).double()
    v = mean + torch.einsum("ij,bjd->bid", slope @ torch.linalg.inv(joint), x[:, 1:] - at * mean)
    return torch.cat([torch.full_like(x[:, :1], 7.0), v], 1)  # the velocity of the first state is not used


def step(pair):
    return pair[:, 1] - pair[:, 0]


@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_plans_start_at_the_state_and_have_the_distribution_of_the_sums(spread):
    state = torch.tensor([[2.0, -3.0]]).double().expand(4000, 2)
    planner = Planner(Flow(sums), step, STATES, Sampler(40), spread)
    made = planner.plan(state, None, Rng(0))
    assert torch.equal(made[:, 0], state)
    assert torch.allclose(made[:, 1:].mean(0), state[:1].expand(STATES - 1, 2), atol=0.08)
    for axis in (0, 1):  # the exact flow is linear, so the source scales the covariance
        assert torch.allclose(torch.cov(made[:, 1:, axis].T), spread**2 * SUMS, atol=0.25 * spread**2)
    assert torch.equal(planner.act(state, None, Rng(0)), made[:, 1] - made[:, 0])


def test_guidance_raises_the_drift_of_the_first_action():
    state, wanted = torch.zeros(10, 2).double(), {"return": torch.full((10, 1), 0.5).double()}
    planner = Planner(Flow(sums, null={"return": torch.zeros(1).double()}), step, STATES, Sampler(40), 0.0)
    plain = planner.act(state, wanted, Rng(0))
    guided = Planner(planner.flow, step, STATES, Sampler(40, guidance=CFG(3.0)), 0.0).act(state, wanted, Rng(0))
    assert torch.allclose(plain, torch.full((10, 2), 0.5).double(), atol=1e-3)
    assert torch.allclose(guided, torch.full((10, 2), 1.5).double(), atol=1e-3)  # the velocity is affine in the drift
    with pytest.raises(BeelineError, match="a batch of states"):
        planner.plan(torch.zeros(2), wanted, Rng(0))
    with pytest.raises(BeelineError, match="states=1"):
        Planner(planner.flow, step, 1)


def test_inverse_dynamics_are_learned_by_regression():
    matrix = torch.tensor([[1.0, 0.5], [-0.5, 2.0]])
    pairs = Rng(0).normal(torch.empty(500, 2, 2))
    actions = step(pairs) @ torch.linalg.inv(matrix).T  # s' = s + M a
    with Rng(1).ambient():
        head = Head(4, (2,))
    training = Training(steps=150, batch_size=100, lr=WarmupCosine(3e-2, 5), ema=None)
    data = Batch(actions, cond={"input": pairs})
    made = fit(head, Regression(), data, training, rng=Rng(0), log=lambda entry: None)
    weights = made.layers[0].weight.detach()
    assert torch.allclose(weights, torch.cat([-torch.linalg.inv(matrix), torch.linalg.inv(matrix)], 1), atol=5e-2)
    with pytest.raises(BeelineError, match="its input is the condition 'input'"):
        Regression()(head, Batch(actions), Rng(0))
    with pytest.raises(BeelineError, match="the shape of its target"):
        Regression()(head, Batch(actions[:, :1], cond=data.cond), Rng(0))


def test_times_of_continuations():
    times = Continued(Uniform(), 4, given=2)
    t = times(1000, torch.empty(0), Rng(0))
    assert bool((t[:, :2] == 1).all()) and torch.equal(t[:, 2], t[:, 3]) and abs(float(t[:, 3].mean()) - 0.5) < 0.03
    assert torch.equal(times.log_prob(t), torch.zeros(1000))
    with pytest.raises(BeelineError, match="give fewer"):
        Continued(count=2, given=2)
