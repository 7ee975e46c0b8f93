"""Smaller networks: bits by budget, fewer heads, channels and blocks, and training to what the larger one computes."""

import itertools

import pytest
import torch

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.compressing.activations.ranges import LeastError
from beeline.networks.compressing.around import Scaled
from beeline.networks.compressing.compressed import Compressed, stored_bytes
from beeline.networks.compressing.compressor import Call, Probe
from beeline.networks.compressing.factors import DenseSparse, Signs
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.levels import BitMoD, StatsQ
from beeline.networks.compressing.mixed import MixedBits, allocated
from beeline.networks.compressing.prune import Narrow, Shallow
from beeline.networks.compressing.quantize import (
    AWQ,
    GPTQ,
    LowRank,
    Quantize,
    SmoothQuant,
    SparseGPT,
    SVDQuant,
    TimeRanges,
    int8,
)
from beeline.networks.compressing.recover import Recovered, latent, settled
from beeline.networks.compressing.weights.entropy import EntropyCoded
from beeline.networks.compressing.weights.sensitivity import Curvature
from beeline.networks.compressing.weights.trained_scales import TrainedScales
from beeline.networks.dit import DiT
from beeline.networks.transformer.feeds import SwiGLU
from tests.second_device import DEVICE, second_device


def dit(depth=2, **more):
    with Rng(2).ambient():
        net = DiT((1, 8, 8), width=32, heads=4, depth=depth, **more)
        for p in net.parameters():
            p.data.add_(0.12 * torch.randn_like(p))
    return net.eval().requires_grad_(False)


def probe(seed=0):
    rng = Rng(seed)
    times = (0.1, 0.3, 0.5, 0.7, 0.9)
    return Probe(
        [Call(rng.fork(k).normal(torch.empty(32, 1, 8, 8)), torch.full((32,), t), None) for k, t in enumerate(times)]
    )


def error(made, net):
    """Of states that no method has seen."""
    calls = probe(1).calls
    parts = [(made(*c.inputs) - net(*c.inputs), net(*c.inputs)) for c in calls]
    return float(sum(d.square().sum() for d, _ in parts) / sum(v.square().sum() for _, v in parts)) ** 0.5


def applied(method, net):
    plan = method.plan(net, probe())
    made = method.apply(net, plan, probe(), Rng(0))
    assert stored_bytes(made) == plan.after < plan.before == stored_bytes(net)
    return made


def again(made):
    other = config.build(config.describe(made))
    other.load_state_dict(made.state_dict())
    return other.eval()


X, T = Rng(7).normal(torch.empty(3, 1, 8, 8)), torch.tensor([0.1, 0.5, 0.9])


def test_the_choice_is_that_of_trying_all():
    rng = Rng(0)
    for k in range(30):
        costs = {str(u): [int(c) for c in 1 + rng.fork("c", k, u).integers(20, 3)] for u in range(4)}
        errors = {str(u): rng.fork("e", k, u).normal(torch.empty(3)).square().tolist() for u in range(4)}
        budget = 10 + 4 * min(map(min, costs.values()))
        budget = max(budget, sum(map(min, costs.values())))
        choice = allocated(costs, errors, budget, steps=budget)
        total = sum(errors[u][i] for u, i in choice.items())
        options = [
            sum(errors[str(u)][i] for u, i in enumerate(pick))
            for pick in itertools.product(range(3), repeat=4)
            if sum(costs[str(u)][i] for u, i in enumerate(pick)) <= budget
        ]
        assert total == pytest.approx(min(options)) and sum(costs[u][i] for u, i in choice.items()) <= budget


def test_bits_meet_a_share_of_the_bytes():
    net = dit()
    made = applied(MixedBits(0.28, (Integers(3), Integers(4), Integers(8))), net)
    assert stored_bytes(made) <= 0.28 * stored_bytes(net)
    assert torch.equal(again(made)(X, T), made(X, T))
    with pytest.raises(BeelineError, match="smallest formats take"):
        MixedBits(0.02).plan(net, probe())


@pytest.mark.parametrize("feed", [{}, {"feed": SwiGLU()}])
def test_useless_parts_are_taken_away_first_and_cost_nothing(feed):
    """Heads and channels with constant outputs: their bias is enough."""
    net = dit(**feed)
    for block in net.block:
        last = block.mlp.down if feed else block.mlp[3]
        last.weight[:, ::2] = 0
        block.mix.out.weight[:, 8:16] = 0
        block.mix.out.weight[:, 24:] = 0
    for fitted in (False, True):
        made = applied(Narrow(0.5, fitted), net)
        assert error(made, net) < 1e-3
        assert torch.equal(again(made)(X, T), made(X, T))
    assert error(applied(Narrow(0.25), net), net) > 0.01


def test_fitted_weights_are_better_than_means():
    net = dit()
    fitted, means = (error(applied(Narrow(0.5, kind), net), net) for kind in (True, False))
    assert fitted < means


def test_a_block_that_does_nothing_is_the_first_to_go():
    net = dit(depth=3)
    net.block[1].tell.weight.zero_()
    net.block[1].tell.bias.zero_()
    made = applied(Shallow(1), net)
    assert error(made, net) < 1e-6 and torch.equal(again(made)(X, T), made(X, T))
    with pytest.raises(BeelineError, match="give 2 or fewer"):
        Shallow(3).plan(net, probe())


SMALLER = [
    Quantize(Integers(2), rest=None),
    Quantize(StatsQ(2), rest=None),
    Quantize(DenseSparse(0.25, 2, rounds=2), rest=None),
    LowRank(0.2),
    Quantize(Signs(), rest=None),
    Narrow(0.25, False),
    Shallow(1),
]


@pytest.mark.parametrize("method", SMALLER, ids=repr)
def test_training_brings_outputs_nearer(method):
    net = dit()
    before = error(applied(method, net), net)
    made = applied(Recovered(method, steps=40, batch=32), net)
    assert error(made, net) < 0.85 * before
    assert torch.equal(again(made)(X, T), made(X, T))
    assert not any(p.requires_grad for p in made.parameters())


@pytest.mark.parametrize("form", [Integers(2), StatsQ(1), StatsQ(2), BitMoD(3)], ids=repr)
def test_training_of_a_stored_network_begins_at_what_is_stored(form):
    made = applied(Quantize(form, rest=None), dit())
    wanted = made(X, T)
    latent(made)
    assert torch.allclose(made(X, T), wanted, atol=1e-5)
    settled(made)
    assert torch.allclose(made(X, T), wanted, atol=1e-5)


def test_training_that_makes_it_worse_is_undone():
    net = dit()
    made, worse = applied(Narrow(0.5), net), applied(Recovered(Narrow(0.5), steps=2, rate=0.1), net)
    assert torch.equal(made(X, T), worse(X, T))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [GPTQ(3), AWQ(4), SVDQuant(3, 2), SmoothQuant(), SparseGPT(), MixedBits(0.28), Narrow(0.5), Shallow(1),
     Recovered(Quantize(BitMoD(3)), steps=2), Recovered(LowRank(), steps=2),
     Recovered(Quantize(DenseSparse(0.4, 2, rounds=2), rest=None), steps=2), Recovered(Quantize(StatsQ()), steps=2),
     Quantize(EntropyCoded(), rest=None, kept=True), Quantize(Scaled(Integers(4), TrainedScales(3))),
     MixedBits(0.28, errors=Curvature(2)), TimeRanges(2, ranges=LeastError(10))],
    ids=repr,
)  # fmt: skip
def test_networks_on_another_device(method):
    plain = error(applied(method, dit()), dit())
    with second_device():
        net = dit().to(DEVICE)
        calls = [Call(*(part if part is None else part.to(DEVICE) for part in call)) for call in probe().calls]
        made = method.apply(net, method.plan(net, Probe(calls)), Probe(calls), Rng(0))
        there = made.cpu()
    assert error(there, dit()) == pytest.approx(plain, rel=0.02)


def test_decoded_weights_can_be_kept():
    net = dit()
    slow, quick = applied(int8(), net), applied(int8(kept=True), net)
    assert torch.equal(slow(X, T), quick(X, T)) and torch.equal(slow(X, T), quick(X, T))
    assert isinstance(quick, Compressed) and set(quick.state_dict()) == set(slow.state_dict())
    quick.load_state_dict(applied(int8(), dit(depth=2, ratio=4.0)).state_dict())
    layer = quick.field.block[0].mix.qkv
    before = layer.weight
    layer.stored["scale"].mul_(2)
    assert torch.allclose(layer.weight, 2 * before)
