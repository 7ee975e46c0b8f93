"""Networks with several last layers, and flow maps from velocity networks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Data, Network, Noise
from beeline.networks.maps.head_bank import HeadBank, head_mixture
from beeline.networks.maps.spans import spanned
from beeline.paths.affine import Cosine
from beeline.solvers.runge_kutta import FlowMapStep
from beeline.times.schedules import Shifted

NETWORKS = {
    "MLP": lambda: bl.networks.MLP(shape=(1, 5, 5), width=16, depth=1, conditions={"label": {"classes": 3}}),
    "DiT": lambda: bl.networks.DiT((1, 5, 5), width=16, depth=1, heads=2, conditions={"label": {"classes": 3}}),
    "UNet": lambda: bl.networks.UNet((1, 5, 5), 8, (1, 2), conditions={"label": {"classes": 3}}),
}


def made(name: str) -> nn.Module:
    """A network with the same weights in every call."""
    with Rng(0).ambient():
        return NETWORKS[name]()


def randomised(net: nn.Module) -> nn.Module:
    """The network with weights that differ from those of its start, where the last layers are zero."""
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p += 0.2 * Rng(1).fork(i).normal(p)
    return net


def bank(name: str, **more: object) -> HeadBank:
    return randomised(HeadBank(Network(randomised(made(name))), **{"intervals": 8, **more}))  # type: ignore[arg-type,return-value]


X = Rng(3).normal(torch.empty(4, 1, 5, 5))
COND = {"label": torch.tensor([0, 1, 2, 3])}
GRID = torch.linspace(0, 1, 9, dtype=torch.float64)


def one_hot(k: int) -> torch.Tensor:
    return torch.eye(8)[k].expand(1, 4, 8)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_fused_layer_of_a_jump_is_the_mean_of_its_heads(name: str) -> None:
    net = bank(name, every=2)
    t, s = torch.full((4,), 0.25), torch.full((4,), 0.75)
    heads = [net(X, t, COND, mixtures=one_hot(k))[0] for k in range(2, 6)]
    mean = torch.stack(heads).mean(0)
    assert mean.std() > 0.05 and (heads[0] - heads[1]).abs().mean() > 0.01
    torch.testing.assert_close(net(X, t, COND, s), mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("prediction", [bl.predictions.Velocity(), Data(), Noise()])
def test_all_mixtures_of_one_pass_equal_those_of_single_passes(name: str, prediction: object) -> None:
    net = HeadBank(Network(randomised(made(name)), Cosine(), prediction), 8)  # type: ignore[arg-type]
    randomised(net)
    t = torch.tensor([0.0, 0.25, 0.5, 0.75])
    mixtures = torch.stack([head_mixture(GRID, t, t + 0.25), head_mixture(GRID, t, t)])
    both = net(X, t, COND, mixtures=mixtures)
    for found, mixture in zip(both, mixtures, strict=True):
        torch.testing.assert_close(found, net(X, t, COND, mixtures=mixture[None])[0], atol=1e-5, rtol=1e-4)
    rows = [net(X[i : i + 1], t[i : i + 1], {"label": COND["label"][i : i + 1]}, t[i : i + 1] + 0.25) for i in range(4)]
    torch.testing.assert_close(both[0], torch.cat(rows), atol=2e-4, rtol=1e-3)  # noise divided by a small a(t)


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_start_as_the_last_layer_of_the_teacher(name: str) -> None:
    teacher = Network(randomised(made(name)))
    t = torch.full((4,), 0.5)
    expected = teacher(X, t, COND)
    student = HeadBank(teacher, 8, 4)
    torch.testing.assert_close(student(X, t, COND, torch.ones(4)), expected, atol=1e-6, rtol=1e-5)


def test_the_weights_of_heads_are_shares_of_the_jump() -> None:
    grid = Shifted(3.0)(8).double()
    t, s = grid[[0, 2, 4, 7]], grid[[8, 3, 8, 8]]
    c = head_mixture(grid, t, s).double()
    assert torch.allclose(c.sum(1), torch.ones(4).double())
    assert torch.allclose(c[0], grid.diff(), atol=1e-6) and c[1].argmax() == 2 and c[1].max() == 1
    assert torch.equal(head_mixture(grid, grid[:-1], grid[:-1]), torch.eye(8))


def test_a_student_refuses_a_grid_that_it_was_not_trained_for() -> None:
    flow = bl.Flow(bank("MLP", every=4))
    assert torch.isfinite(bl.Sampler(2, solver=FlowMapStep())(flow, X, COND)).all()
    for wrong in (bl.Sampler(4, solver=FlowMapStep()), bl.Sampler(2, Shifted(2.0), FlowMapStep())):
        with pytest.raises(BeelineError, match=r"trained between the times \[0.0, 0.5, 1.0\].*in 1, 2 steps"):
            wrong(flow, X, COND)


def test_what_cannot_have_heads_is_refused() -> None:
    with pytest.raises(BeelineError, match="declares no last layer"):
        HeadBank(nn.Identity())
    with pytest.raises(BeelineError, match="that is a flow map"):
        HeadBank(spanned(Network(bl.networks.MLP(2))))
    with pytest.raises(BeelineError, match="intervals=8, every=3"):
        HeadBank(Network(bl.networks.MLP(2)), 8, 3)


def test_a_bank_in_half_precision_mixes_its_heads_in_single_precision() -> None:
    net = bank("MLP", every=8)
    half = copy.deepcopy(net).bfloat16()
    t = torch.zeros(4)
    exact = net(X, t, COND, torch.ones(4))
    assert half(X, t, COND, torch.ones(4)).dtype == torch.float32
    assert (half(X, t, COND, torch.ones(4)) - exact).std() < 0.05 * exact.std()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_spanned_network_is_the_velocity_for_every_jump_at_first(name: str) -> None:
    teacher = Network(randomised(made(name)))
    student = spanned(teacher)
    t, s = torch.tensor([0.0, 0.2, 0.4, 0.6]), torch.tensor([1.0, 0.1, 0.4, 0.9])
    assert torch.equal(student(X, t, COND, s), teacher(X, t, COND))
    randomised(student)
    assert not torch.equal(student(X, t, COND, s), student(X, t, COND, t))
    assert spanned(student) is not student and torch.equal(spanned(student)(X, t, COND, s), student(X, t, COND, s))


def test_what_has_no_second_time_is_refused() -> None:
    for wrong, text in (
        (nn.Identity(), "input of the backbone of a Network"),
        (Network(nn.Linear(1, 1)), "takes no second time; use a network with the setting span"),
        (Network(bl.networks.MLP(2), prediction=Data()), "the prediction Data"),
    ):
        with pytest.raises(BeelineError, match=text):
            spanned(wrong)
