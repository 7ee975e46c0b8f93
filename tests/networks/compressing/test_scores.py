"""Scores of heads and channels against derivatives, planted parts and the errors of removing them."""

import pytest
import torch
from scipy.stats import spearmanr

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.rng import Rng
from beeline.networks.compressing.compressor import Call, Moments, Probe
from beeline.networks.compressing.prune import Narrow
from beeline.networks.compressing.removal.scores import Fluctuation, Learned, Magnitude, SecondOrder, Taylor
from beeline.networks.compressing.removal.units import Units, gated, units_of
from tests.networks.compressing.test_smaller import T, X, again, dit, error, probe
from tests.second_device import DEVICE, second_device

SCORES = [config.parse(f"unit_scores.{name}()") for name in CATALOGUE["unit_scores"]]


def scored(score, net, states=None):
    states, units = states or probe(), units_of(net, "a test")
    moments = states.moments(net, {name: unit.last for name, unit in units.items()})
    return score(net, states, units, moments), units, moments


def removal_errors(net, unit, name, moments):
    """E |v without a unit - v|^2 for every unit of a layer."""
    errors, states = [], wanted(net)
    for j in range(unit.count):
        gate = torch.ones(1, unit.count).index_fill(1, torch.tensor([j]), 0.0)
        with gated({name: unit}, {name: gate}, {name: moments[name].mean}), torch.no_grad():
            errors.append(sum(float((net(*c.inputs) - v).square().sum()) for c, v in states))
    return errors


def wanted(net):
    with torch.no_grad():
        return [(c, net(*c.inputs)) for c in probe().calls]


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_units_that_do_nothing_go_first(score):
    net = dit()
    for block in net.block:
        block.mlp[3].weight[:, ::2] = 0
        block.mix.out.weight[:, 8:16] = 0
        block.mix.out.weight[:, 24:] = 0
    made = Narrow(0.5, score=score)
    small = made.apply(net, made.plan(net, probe()), probe(), Rng(0))
    assert error(small, net) < 1e-3
    assert torch.equal(again(small)(X, T), small(X, T))
    assert config.build(config.describe(made)) == made


def test_taylor_scores_are_squared_derivatives_of_gates():
    net = dit().double()
    call = Call(*(part if part is None else part.double() for part in probe().calls[2]))
    found, units, moments = scored(Taylor(64), net, Probe([call]))
    for name in ("block.0.mix.out", "block.1.mlp.3"):
        for j in (0, 3):
            ends = []
            for step in (1e-4, -1e-4):
                gate = (
                    torch.ones(1, units[name].count)
                    .double()
                    .index_add(1, torch.tensor([j]), torch.tensor([[step]]).double())
                )
                with gated({name: units[name]}, {name: gate}, {name: moments[name].mean}), torch.no_grad():
                    ends.append(net(*call.inputs))
            exact = ((ends[0] - ends[1]) / 2e-4).square().sum()
            assert float(found[name][j]) / 64 == pytest.approx(float(exact), rel=0.25)  # an estimate by 64 x 32 signs


def test_taylor_orders_units_as_their_removal_does():
    net = dit()
    (taylor, units, moments), (size, *_) = scored(Taylor(), net), scored(Magnitude(), net)
    for name in ("block.0.mlp.3",):
        errors = removal_errors(net, units[name], name, moments)
        rank = spearmanr(taylor[name], errors).statistic
        assert rank > 0.9 and rank > spearmanr(size[name], errors).statistic + 0.1


def test_of_two_equal_units_the_second_order_keeps_one():
    """Inputs 0 and 1 are equal and large, so that either can be replaced by the other; 2 is small and alone."""
    rng, last = Rng(0), torch.nn.Linear(6, 5)
    x = rng.normal(torch.empty(500, 6)) * torch.tensor([3.0, 3.0, 1.0, 2.0, 2.0, 2.0])
    x[:, 1] = x[:, 0]
    moments, unit = Moments(), Units(None, last, 6)
    moments.add(x)
    w = rng.fork("w").normal(torch.empty(5, 6))
    last.weight.data.copy_(w / w.norm(dim=0))
    place = SecondOrder().order(unit, moments)
    assert int(place.argmin()) in (0, 1) and int(Fluctuation()(None, None, {"": unit}, {"": moments})[""].argmin()) == 2
    y = (x - x.mean(0)) @ last.weight.detach().mT
    for size in (1, 2):  # the first that goes is the one whose removal costs least after a fit
        unit = Units(None, last, 6 // size)
        place = SecondOrder(1e-9).order(unit, moments)
        losses = []
        for j in range(unit.count):
            kept = [i for i in range(6) if i // size != j]
            centred = (x - x.mean(0))[:, kept]
            losses.append(float((centred @ torch.linalg.lstsq(centred, y).solution - y).square().sum()))
        assert losses[int(place.argmin())] <= 1.01 * min(losses) + 1e-6


def test_better_scores_lose_less():
    net, found = dit(), {}
    for score in (Magnitude(), Taylor(), SecondOrder(), Learned(100)):
        method = Narrow(0.5, score=score)
        found[type(score)] = error(method.apply(net, method.plan(net, probe()), probe(), Rng(0)), net)
    assert max(found[Taylor], found[Learned], found[SecondOrder]) < found[Magnitude]


@pytest.mark.slow
@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_scores_on_another_device(score):
    plain, *_ = scored(score, dit())
    with second_device():
        calls = [Call(*(part if part is None else part.to(DEVICE) for part in call)) for call in probe().calls]
        there, *_ = scored(score, dit().to(DEVICE), Probe(calls))
    assert all(torch.allclose(there[name], plain[name], rtol=1e-3) for name in plain)
