"""Blocks that are taken away: by trying, by rules and by name, from transformers and from other residual networks."""

import itertools

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Call, Probe
from beeline.networks.compressing.prune import Shallow
from beeline.networks.compressing.quantize import int8
from beeline.networks.compressing.recover import Recovered
from beeline.networks.compressing.removal.blocks import EvenlySpaced, Greedy, LeastChange, Listed
from beeline.networks.mlp import MLP
from beeline.networks.unet import UNet
from tests.networks.compressing.test_smaller import T, X, again, applied, dit, error, probe


def mlp(depth=4):
    with Rng(3).ambient():
        net = MLP(shape=(1, 8, 8), width=32, depth=depth)
        for p in net.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    return net.eval().requires_grad_(False)


def idle(net, *blocks):
    """Blocks that do nothing."""
    for k in blocks:
        last = net.block[k].tell if hasattr(net.block[k], "tell") else net.block[k].out
        for p in last.parameters():
            p.zero_()
    return net


@pytest.mark.parametrize("made", [dit, mlp])
@pytest.mark.parametrize("choice", [LeastChange(), Greedy(1e-4)], ids=repr)
def test_blocks_that_do_nothing_go(made, choice):
    net = idle(made(depth=4), 0, 2)
    method = Shallow(2, choice)
    plan = method.plan(net, probe())
    assert set(plan.decisions) == {"0", "2"}
    small = applied(method, net)
    assert error(small, net) < 1e-6 and torch.equal(again(small)(X, T), small(X, T))


def test_greedy_stops_where_it_costs_too_much():
    """Errors that are known: sqrt(sum of c_k^2) without the blocks k."""
    costs = {0: 0.4, 1: 0.1, 2: 0.2, 3: 0.25}

    def change(out, states=slice(None)):
        return sum(costs[k] ** 2 for k in out) ** 0.5

    for most, tolerance in itertools.product((1, 2, 3), (0.15, 0.23, 0.3, 0.35, 0.6)):
        out = Greedy(tolerance)(change, 4, most)
        assert len(out) <= most and change(out) <= tolerance
        left = [k for k in costs if k not in out]
        assert len(out) == most or all(change([*out, k]) > tolerance for k in left)
    with pytest.raises(BeelineError, match="changes them by 0.1; give more"):
        Greedy(0.05)(change, 4, 2)
    assert list(LeastChange()(change, 4, 3)) == [1, 2, 3]


def test_rules_and_names():
    for n in range(2, 12):
        for remove in range(1, n - 1):
            kept = [k for k in range(n) if k not in EvenlySpaced()(None, n, remove)]
            gaps = {b - a for a, b in itertools.pairwise(kept)}
            assert len(kept) == n - remove and kept[0] == 0 and kept[-1] == n - 1 and max(gaps) - min(gaps) <= 1
    net = dit(depth=4)
    assert torch.equal(applied(Shallow(2, Listed((1, 2))), net)(X, T), applied(Shallow(2, EvenlySpaced()), net)(X, T))
    for blocks in ((1,), (1, 4), (1, 1)):
        with pytest.raises(BeelineError, match="name 2 of 0 to 3"):
            Shallow(2, Listed(blocks)).plan(net, probe())


def test_other_networks_than_transformers():
    net = mlp()
    small = applied(Shallow(1, Listed((1,))), net)
    h, told, out = net.stages(X, T)
    for k in (0, 2, 3):
        h = net.block[k](h, *told[k])
    assert torch.equal(small(X, T), out(h)) and torch.equal(again(small)(X, T), small(X, T))
    few = applied(int8(), small)
    assert torch.equal(again(few)(X, T), few(X, T)) and stored_bytes(few) < 0.5 * stored_bytes(small)
    assert error(applied(Recovered(Shallow(1), steps=60, batch=32), net), net) < 0.8 * error(
        applied(Shallow(1), net), net
    )
    with pytest.raises(BeelineError, match="UNet with 3 stacks"):
        Shallow(1).plan(UNet((1, 8, 8), width=8), probe())
    with pytest.raises(BeelineError, match="give 3 or fewer"):
        Shallow(4).plan(net, Probe([Call(X, T, None)]))
