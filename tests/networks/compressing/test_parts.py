"""Blocks that share weights, and parts of elastic networks, against exact answers."""

import itertools

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.quantize import int8
from beeline.networks.compressing.recover import Recovered
from beeline.networks.compressing.removal.search import SubnetworkSearch, evolved, operations
from beeline.networks.compressing.removal.sharing import Share, Tied
from beeline.networks.mlp import MLP
from tests.networks.compressing.test_smaller import T, X, again, applied, dit, error, probe
from tests.second_device import DEVICE, second_device


@pytest.mark.parametrize("cyclic", [False, True])
def test_shared_blocks_with_a_full_rank_are_the_network(cyclic):
    net = dit(depth=4)
    method = Share(2, 128, cyclic)
    made = method.apply(net, method.plan(net, probe()), probe(), Rng(0))
    assert error(made, net) < 1e-5
    old = dict(net.named_modules())
    errors = []
    for rank in (0, 4, 8, 16):
        layers = dict(Share(2, rank, cyclic).shared(net).field.named_modules())
        changes = (layers[n].weight - old[n].weight for n in old if isinstance(layers[n], Tied))
        errors.append(sum(float(change.square().sum()) for change in changes))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.3 * errors[0]


def test_equal_blocks_cost_the_bytes_of_one():
    net = dit(depth=4)
    for k in (1, 3):
        net.block[k].load_state_dict(net.block[k - 1].state_dict())
    made = applied(Share(2), net)
    assert error(made, net) < 1e-6 and torch.equal(again(made)(X, T), made(X, T))
    weights = sum(m.weight.numel() * 4 for m in net.block[0].modules() if isinstance(m, torch.nn.Linear))
    assert stored_bytes(net) - stored_bytes(made) == 2 * weights
    files = [sum(t.numel() * t.element_size() for t in n.state_dict().values()) for n in (net, made)]
    assert files[0] - files[1] == 2 * weights
    assert error(applied(Share(2, cyclic=True), net), net) > 0.01


def test_shared_weights_are_trained_and_moved():
    net = dit(depth=4)
    before = error(applied(Share(2, 2), net), net)
    made = applied(Recovered(Share(2, 2), steps=40, batch=32), net)
    assert error(made, net) < 0.8 * before and torch.equal(again(made)(X, T), made(X, T))
    assert torch.allclose(made.double()(X.double(), T.double()).float(), made.float()(X, T), atol=1e-4)
    with pytest.raises(BeelineError, match="share before weights are stored in few bits"):
        small = applied(int8(), net)
        Share(2).plan(small, probe())
    with pytest.raises(BeelineError, match="none has more blocks"):
        Share(4).plan(net, probe())
    with pytest.raises(BeelineError, match="leave blocks out that share weights"):
        int8().plan(made, probe())
    with second_device():
        there = made.to(DEVICE)
        assert torch.allclose(there(X.to(DEVICE), T.to(DEVICE)).cpu(), made.cpu()(X, T), atol=1e-5)


@pytest.mark.parametrize("n, slack", [(4, 1e-6), (8, 0.1)])
@pytest.mark.parametrize("seed", range(4))
def test_evolution_finds_the_best_genes_within_a_limit(n, slack, seed):
    """Additive errors and costs over 3^8 genes, of which at most 321 are tried; and all of 3^4."""
    rng = Rng(seed)
    losses, costs = (rng.fork(name).uniform(3 * n, torch.empty(0)).view(n, 3) for name in ("loss", "cost"))
    limit, cheapest = 1.5 * float(costs.amin(1).sum()), tuple(costs.argmin(1).tolist())
    tried = []

    def total(table, genes):
        return sum(table[k][g] for k, g in enumerate(genes))

    def error(genes):
        tried.append(genes)
        return total(losses.tolist(), genes)

    found = evolved([3] * n, error, lambda genes: total(costs.tolist(), genes), limit, cheapest)
    every = [g for g in itertools.product(range(3), repeat=n) if total(costs.tolist(), g) <= limit]
    best, worst = (pick(total(losses.tolist(), g) for g in every) for pick in (min, max))
    assert found in every and len(tried) <= 321
    assert total(losses.tolist(), found) <= best + slack * (worst - best)


def test_no_genes_within_a_limit_are_none():
    assert evolved([3], lambda g: 0.0, lambda g: 2.0, 1.0, (0,)) is None


def test_the_part_within_the_operations_is_the_nearest():
    net, call = dit(depth=3), probe().calls[0]
    net.block[1].tell.weight.zero_()  # it does nothing
    net.block[1].tell.bias.zero_()
    method = SubnetworkSearch(0.75, measured=False, widths=(1.0, 0.5))
    plan = method.plan(net, probe())
    made = method.apply(net, plan, probe(), Rng(0))
    assert plan.decisions["visits"] == (0, 2) and plan.decisions["width"] == 1.0 and error(made, net) < 1e-6
    assert operations(made, call) <= 0.75 * operations(net, call)
    assert plan.decisions["cost"] == pytest.approx(operations(made, call) / operations(net, call))
    assert stored_bytes(made) == plan.after and torch.equal(again(made)(X, T), made(X, T))
    with pytest.raises(BeelineError, match=r"the smallest one costs 0\.\d+: give that or more"):
        SubnetworkSearch(0.01, measured=False, widths=(1.0, 0.5)).plan(net, probe())
    with pytest.raises(BeelineError, match="without a flow transformer"):
        SubnetworkSearch().plan(MLP(2), probe())


def test_a_part_within_measured_seconds_has_fewer_blocks():
    net = dit(depth=3)
    method = SubnetworkSearch(0.7, widths=(1.0,))
    plan = method.plan(net, probe())
    made = method.apply(net, plan, probe(), Rng(0))
    assert len(plan.decisions["visits"]) < 3
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in net.parameters())
