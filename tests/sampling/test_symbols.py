"""Guidance of symbols: closed forms of straight-through guidance, and of classifier-free guidance by scores."""

import math

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.guidance.straight_through import StraightThrough
from beeline.sampling.sampler import Sampler
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import RK4
from beeline.spaces.simplex import Dirichlet, GumbelSoftmax, PosteriorNetwork, Simplex

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REWARD = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)


def fixed(path):
    """A classifier with the constant output P."""
    return PosteriorNetwork(lambda x, t, cond=None: P.log().expand_as(x), path)


def linear(z):
    return (z * REWARD).flatten(1).sum(1)


def test_a_linear_reward_moves_logits_along_a_line():
    # without cooling x = softmax(y) with dy/dt = signal / top P + strength REWARD
    path, strength = GumbelSoftmax(signal=4.0, top=2.0, cooling=0.0), 0.7
    x0 = Simplex().sample(torch.empty(20, 2, 3, dtype=torch.float64), Rng(0))
    guided = StraightThrough(linear, strength, draws=3)(fixed(path), None)
    x = integrate(guided, x0, torch.linspace(0, 1, 65, dtype=torch.float64), RK4)
    assert torch.allclose(x, torch.softmax(x0.log() + 2 * P + strength * REWARD, -1), atol=1e-7)


def test_an_energy_is_minus_the_logarithm_of_a_classifier_and_gets_the_conditions():
    path = GumbelSoftmax()
    x0 = path.sources()[0].sample(torch.empty(6, 2, 3, dtype=torch.float64), Rng(0))
    flow, seen = Flow(fixed(path), path), []

    def energy(z, t, cond=None):
        seen.append(cond["c"])
        assert bool((t == 1).all()) and len(cond["c"]) == len(z)
        return -linear(z) * cond["c"]

    cond = {"c": torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], dtype=torch.float64)}
    made = Sampler(4, guidance=StraightThrough(energy=energy, draws=3))(flow, x0, cond)
    one = Sampler(4, guidance=StraightThrough(linear, draws=3))(flow, x0[:3])
    two = Sampler(4, guidance=StraightThrough(linear, 2.0, draws=3))(flow, x0[3:])
    assert torch.equal(made, torch.cat([one, two])) and seen[0].tolist() == [1.0] * 9 + [2.0] * 9
    for wrong in ({}, {"classifier": linear, "energy": energy}):
        with pytest.raises(BeelineError, match="give classifier= or energy="):
            StraightThrough(**wrong)


def test_a_step_too_long_does_not_leave_the_simplex_for_good():
    """Long steps move rare symbols below zero; x log x is evaluated on the simplex."""
    path = GumbelSoftmax()
    x = torch.tensor([[1.2, -0.1, -0.1]], dtype=torch.float64)
    v = path.mixture(x, torch.ones(1, dtype=torch.float64), P[None])
    assert float(v.abs().max()) < 1e-12  # that of the vertex
    x0 = path.sources()[0].sample(torch.empty(200, 2, 3, dtype=torch.float64), Rng(0))
    made = Sampler(5, guidance=StraightThrough(linear, 9.0))(Flow(fixed(path), path), x0)
    assert bool(((made == 0) | (made == 1)).all())


@pytest.mark.parametrize("path", [GumbelSoftmax(), Dirichlet()], ids=lambda p: type(p).__name__)
def test_states_keep_their_sum_and_no_strength_is_no_guidance(path):
    field, flow = fixed(path), Flow(fixed(path), path)
    x0 = path.sources()[0].sample(torch.empty(50, 2, 3, dtype=torch.float64), Rng(0))
    seen = []
    Sampler(40, guidance=StraightThrough(linear, 3.0))(flow, x0, watch=lambda x, t: seen.append(x))
    states = torch.stack(seen)
    assert float((states.sum(-1) - 1).abs().max()) < 1e-6
    t = torch.full((50,), 0.5, dtype=torch.float64)
    assert torch.equal(StraightThrough(linear, 0.0)(field, None)(x0, t), field(x0, t))


def test_the_rewarded_symbol_becomes_more_frequent_with_the_strength():
    path, k = Dirichlet(), 2
    x0 = Simplex().sample(torch.empty(4000, 1, 3, dtype=torch.float64), Rng(0))

    class Exact(nn.Module):  # the posterior of one symbol with the distribution P: P_k x_k^tau
        def forward(self, x, t, cond=None):
            return P.log() + path.top * t[:, None, None] * x.clamp(min=1e-300).log()

    flow = Flow(PosteriorNetwork(Exact(), path), path)
    shares = []
    for strength in (0.0, 1.0, 3.0):
        x = Sampler(20, guidance=StraightThrough(lambda z: z[..., k].sum(1), strength, draws=2))(flow, x0)
        assert torch.equal(x.sum(-1), torch.ones(4000, 1).double()) and bool(((x == 0) | (x == 1)).all())
        shares.append(float(x[..., k].mean()))
    assert abs(shares[0] - float(P[k])) < 0.03  # without a reward it is the distribution
    assert shares[1] > shares[0] + 0.08 and shares[2] > shares[1] + 0.2


def test_symbols_follow_the_prediction_and_samples_do_not_depend_on_their_batch():
    # log c(z) = z_0a z_1a has the gradient (z_1a, z_0a), whose mean over draws is p
    path = GumbelSoftmax()
    pair = lambda z: z[:, 0, 0] * z[:, 1, 0]  # noqa: E731
    p = P.expand(3, 2, 3).clone()
    g = StraightThrough(pair, draws=20_000).gradient(p, Rng(1))
    assert float((g[..., 0] - 0.5).abs().max()) < 4 * 0.5 / math.sqrt(20_000)
    assert bool((g[..., 1:] == 0).all())
    flow = Flow(fixed(path), path)
    x0 = Simplex().sample(torch.empty(6, 2, 3, dtype=torch.float64), Rng(0))
    how = Sampler(5, guidance=StraightThrough(pair, 5.0, draws=4))
    states = []
    for part in (x0, x0[2:3]):
        how(flow, part, watch=lambda x, t: states.append(x))
    assert torch.allclose(states[5][2], states[-1][0], atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_of_dirichlet_scores_is_that_of_velocities(scale):
    """Scores (1-w) s_null + w s_cond, solved for probabilities that sum to 1, give the velocity of CFG."""
    path, k = Dirichlet(), 4
    distribution = torch.softmax(Rng(3).normal(torch.empty(2, k, dtype=torch.float64)), -1)
    field = PosteriorNetwork(lambda x, t, cond: distribution[cond].log(), path)
    x = Simplex().sample(torch.empty(9, k, dtype=torch.float64), Rng(0))
    t, label = torch.full((9,), 0.4, dtype=torch.float64), torch.zeros(9, dtype=torch.long)
    tau = path.top * 0.4
    for row, made in zip(x, CFG(scale, null=1)(field, label)(x, t), strict=True):
        score = tau * torch.diag(1 / row)  # of the conditional distributions, by columns
        score = score - score.mean(0)
        wanted = score @ (scale * distribution[0] + (1 - scale) * distribution[1])
        solve = torch.cat([score[:-1], torch.ones(1, k, dtype=torch.float64)])
        p = torch.linalg.solve(solve, torch.cat([wanted[:-1], torch.ones(1, dtype=torch.float64)]))
        known = path.mixture(row[None], t[:1], p[None])[0]
        assert torch.allclose(made, known, atol=1e-8)


def test_guidance_refusals():
    with pytest.raises(BeelineError, match="draws=0, which is no whole number from 1"):
        StraightThrough(linear, draws=0)
    with pytest.raises(BeelineError, match="inside the simplex"):
        StraightThrough(linear)(lambda x, t: x, None)
    x, t = torch.full((2, 2, 3), 1 / 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    field = fixed(GumbelSoftmax())
    with pytest.raises(BeelineError, match="one log-probability per sequence"):
        StraightThrough(lambda z: z.sum(-1))(field, None)(x, t)
    with pytest.raises(BeelineError, match="without gradient"):
        StraightThrough(lambda z: z.detach().flatten(1).sum(1))(field, None)(x, t)


def test_the_null_of_its_base_is_that_of_the_flow():
    path, distribution = Dirichlet(), torch.stack([P, P.flip(0)])
    flow = Flow(PosteriorNetwork(lambda x, t, cond: distribution[cond["label"]].log(), path), path, null={"label": 1})
    x0 = Simplex().sample(torch.empty(8, 3, dtype=torch.float64), Rng(0))
    label = {"label": torch.zeros(8, dtype=torch.long)}
    states = []
    for how in (CFG(2.0), StraightThrough(linear, 0.0, base=CFG(2.0))):
        Sampler(4, guidance=how)(flow, x0, label, watch=lambda x, t: states.append(x))
    assert torch.allclose(states[4], states[-1], atol=1e-12) and len(states) == 10
