"""A mixture of fields is the field of the whole where its weights are the posterior."""

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import MapNetwork, Network
from beeline.networks.growing.specialists import Gate, Specialists
from beeline.networks.mlp import MLP
from beeline.paths.affine import Cosine

MEANS, STDS, WEIGHTS = (-2.0, 1.0, 3.0), (0.5, 0.4, 0.7), (0.5, 0.2, 0.3)


class Exact(nn.Module):
    """The field of a distribution."""

    def __init__(self, one):
        super().__init__()
        self.field = one.field()

    def forward(self, x, t, cond=None):
        return self.field(x, t)


class Posterior(nn.Module):
    """The logarithm of the posterior of three Gaussians on the linear path, up to a constant."""

    def forward(self, x, t):
        mean, std, w = (torch.tensor(v, dtype=x.dtype) for v in (MEANS, STDS, WEIGHTS))
        variance = (t[:, None] * std) ** 2 + (1 - t[:, None]) ** 2
        return w.log() - 0.5 * variance.log() - (x - t[:, None] * mean) ** 2 / (2 * variance)


def test_with_the_posterior_it_is_the_field_of_the_whole():
    parts = [Exact(GaussianMixture(((m,),), s)) for m, s in zip(MEANS, STDS, strict=True)]
    whole = Exact(GaussianMixture(tuple((m,) for m in MEANS), STDS, WEIGHTS))
    made = Specialists(parts, Posterior())
    x = 2 * Rng(0).normal(torch.empty(50, 1, dtype=torch.float64))
    t = Rng(1).uniform(50, x) * 0.98
    assert (made(x, t) - whole(x, t)).abs().max() <= 1e-10
    assert torch.allclose(made.weights(x, t).sum(1), torch.ones(50).double())
    prior = made.weights(x, torch.zeros_like(t))
    assert torch.allclose(prior, torch.tensor(WEIGHTS).double().expand(50, -1)), "the prior at t = 0"


def test_a_gate_learns_the_posterior_and_chooses_one_field_for_a_large_bias():
    kinds = [GaussianMixture(((m,),), s) for m, s in zip(MEANS, STDS, strict=True)]
    made = Specialists([Exact(one) for one in kinds], Gate([1], 3, 32)).double()
    x, t = Rng(2).normal(torch.empty(9, 1).double()), torch.full((9,), 0.5).double()
    assert torch.allclose(made.weights(x, t), torch.full((9, 3), 1 / 3).double()), "equal at first"
    rows = Rng(3).uniform(20_000, torch.empty(0, dtype=torch.float64))
    kind = torch.bucketize(rows, torch.tensor([0.5, 0.7]).double())
    mean, std = (torch.tensor(v, dtype=torch.float64)[kind][:, None] for v in (MEANS, STDS))
    x1 = mean + std * Rng(4).normal(torch.empty(20_000, 1).double())
    times = Rng(5).uniform(20_000, rows)
    state = times[:, None] * x1 + (1 - times[:, None]) * Rng(6).normal(torch.empty_like(x1))
    adam = torch.optim.Adam(made.gate.parameters(), 1e-2)
    for i in range(200):
        some = slice(500 * (i % 40), 500 * (i % 40) + 500)
        adam.zero_grad()
        nn.functional.cross_entropy(made.gate(state[some], times[some]), kind[some]).backward()
        adam.step()
    wanted = torch.softmax(Posterior()(state[:2000], times[:2000]), -1)
    assert (made.weights(state[:2000], times[:2000]) - wanted).abs().mean() < 0.04
    with torch.no_grad():
        made.gate.layers[-1].bias.copy_(torch.tensor([0.0, 100.0, 0.0]))
    assert torch.allclose(made(x, t), Exact(kinds[1])(x, t))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Specialists([Network(MLP(2))], Gate([2], 1)), "two or more"),
        (lambda: Specialists([Network(MLP(2)), Network(MLP(2), Cosine())], Gate([2], 2)), "one path"),
        (lambda: Specialists([MapNetwork(MLP(2, span=True)), Network(MLP(2))], Gate([2], 2)), "flow map"),
        (
            lambda: Specialists([Network(MLP(2))] * 2, Gate([2], 3))(torch.zeros(1, 2), torch.zeros(1)),
            "count=2",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
