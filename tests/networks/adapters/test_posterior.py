"""Draws of LoRAs against the covariance that they are to have, and the spread that a loss allows."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.members.low_rank import DoRA
from beeline.networks.adapters.posterior import drawn, largest_spread


def layer_of(rank=4, delta=None):
    with Rng(0).ambient():
        net = Adapted(torch.nn.Sequential(torch.nn.Linear(32, 48)), delta or LoRA(rank, scale=0.5), ["0"]).double()
        for change in changed_layers(net).values():
            change.changes[0].numbers["up"].data.normal_()
    return net


def test_draws_have_the_mean_and_the_covariance_of_the_posterior():
    net, spread = layer_of(), 0.05
    w, layer = net.field[0].weight.detach(), net.field[0]
    made = torch.stack([drawn(net, spread, Rng(1).fork(k)).field[0].weight.detach() for k in range(500)]) - w
    u = torch.linalg.svd(layer.changes[0].numbers["up"].detach(), full_matrices=False)[0]
    assert float(made.square().sum((1, 2)).mean()) == pytest.approx(spread**2 * 4 * 32, rel=0.02)
    assert float(made.mean(0).abs().max()) < 6 * spread / 500**0.5
    found = torch.einsum("koi,kpi->op", made, made) / (500 * 32)
    assert (found - spread**2 * u @ u.mT).abs().max() < 0.05 * spread**2
    assert torch.equal(drawn(net, 0.0, Rng(1)).field[0].weight, layer.weight)
    layer.changes[0].numbers["up"].data[:, 2] = 0  # a dead component gets no noise
    again = drawn(net, spread, Rng(2)).field[0].weight - layer.weight
    assert torch.linalg.matrix_rank(again.detach()) == 3


def test_the_spread_is_the_largest_that_the_tolerance_allows():
    net = layer_of()
    w = net.field[0].weight.detach()

    def loss(made):  # 1 + |D|^2 of a draw, whose mean is 1 + spread^2 rank in
        return 1 + (made.field[0].weight - w).square().sum()

    found = largest_spread(net, loss, Rng(3), tolerance=0.05, draws=8)
    assert found == pytest.approx((0.05 / (4 * 32)) ** 0.5, rel=0.05)
    assert loss(drawn(net, 0.0, Rng(0))) == 1
    assert largest_spread(net, lambda made: 1.0, Rng(3)) == 0.2, "nothing costs: the end of the span"
    with pytest.raises(BeelineError, match="already costs more"):
        largest_spread(net, lambda made: 1 + 1e9 * (loss(made) - 1), Rng(3))
    with pytest.raises(BeelineError, match="extract one"):
        drawn(layer_of(delta=DoRA(2)), 0.1, Rng(0))
    with pytest.raises(BeelineError, match="no changed layers"):
        drawn(torch.nn.Linear(2, 2), 0.1, Rng(0))
