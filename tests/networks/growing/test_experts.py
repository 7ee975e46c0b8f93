"""Experts and groups of trained dense feeds compute the same; merged experts are their means."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Network
from beeline.networks.dit import DiT, MMDiT
from beeline.networks.growing.experts import Merging, grouped, merge, upcycle
from beeline.networks.transformer.experts import PEER, Experts
from beeline.networks.transformer.groups import Prefix, TopGroups
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.routers import BiasBalanced, Prototypes, Rectify, ReLURouter, SharedTop, TopK
from beeline.objectives.matching import FlowMatching
from beeline.training.config import Training
from beeline.training.fit import fit

LABEL = {"label": {"classes": 10}}
X = Rng(0).normal(torch.empty(3, 1, 8, 8, dtype=torch.float64))
T, Y = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), {"label": torch.tensor([1, 2, 10])}


def trained(kind=DiT, **more):
    with Rng(2).ambient(), torch.no_grad():
        net = kind((1, 8, 8), width=16, depth=2, heads=2, conditions=LABEL, **more)
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.double().eval()


def difference(made, net):
    return float((made(X, T, Y) - net(X, T, Y)).detach().abs().max())


@pytest.mark.parametrize(
    "router", [SharedTop(3), TopK(2), BiasBalanced(2), Rectify(TopK(2)), Prototypes(1), Prototypes(2)], ids=repr
)
@pytest.mark.parametrize("kind", [DiT, MMDiT])
def test_copies_of_a_feed_change_nothing(kind, router):
    net = trained(kind)
    made = upcycle(net, 4, router)
    assert difference(made, net) <= 1e-12
    assert difference(made.train(), net) <= 1e-12, "with capacities too"
    made(X, T, Y).square().sum().backward()
    moved = [name for name, p in made.named_parameters() if ".mlp." in name and bool(p.grad.abs().sum() > 0)]
    assert any("down" in name for name in moved) and any("up" in name or "shared" in name for name in moved)


def test_the_weights_of_the_first_and_the_best_sum_to_one():
    with Rng(1).ambient():
        route = SharedTop(3).build(16, 5).double()
    h = Rng(2).normal(torch.empty(50, 16, dtype=torch.float64))
    found = route(h, torch.arange(50), None)
    s = torch.softmax(route.gate(h), -1)
    best = s.topk(2, -1)
    assert torch.equal(found.chosen, torch.cat([torch.zeros(50, 1).long(), 1 + best.indices], 1))
    wanted = torch.cat([1 - s.amax(1, keepdim=True), s.amax(1, keepdim=True) * torch.softmax(best.values, 1)], 1)
    assert torch.allclose(found.weight, wanted) and torch.allclose(found.weight.sum(1), torch.ones(50).double())


def test_merged_experts_are_their_weighted_mean():
    net = trained()
    assert difference(merge(upcycle(net, 4)), net) <= 1e-12, "equal experts"
    made = upcycle(net, 4)
    with torch.no_grad():
        for block in made.block:
            for part in (block.mlp.up, block.mlp.down, block.mlp.first, block.mlp.second):
                part.add_(0.1 * Rng(3).normal(part))
    first = trained()
    with torch.no_grad():
        for block, source in zip(first.block, made.block, strict=True):
            block.mlp[0].weight.copy_(source.mlp.up[0].T)
            block.mlp[0].bias.copy_(source.mlp.first[0])
            block.mlp[3].weight.copy_(source.mlp.down[0].T)
            block.mlp[3].bias.copy_(source.mlp.second[0])
    assert difference(merge(made, 1.0), first) <= 1e-12, "the first expert alone"
    half = merge(made, 0.5).block[0].mlp[0].weight
    up = made.block[0].mlp.up
    assert torch.allclose(half, (0.5 * up[0] + 0.5 * up.mean(0)).T)


def test_the_weights_of_merged_experts_learn_and_nothing_else():
    made = upcycle(trained(), 4).float()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * Rng(3).normal(p))
    merging = Merging(made)
    before = {k: v.clone() for k, v in merging.experts.state_dict().items()}
    data = Batch(X.float().repeat(4, 1, 1, 1), cond={"label": Y["label"].repeat(4)})
    training = Training(steps=3, batch_size=4, ema=None)
    fit(Network(merging), FlowMatching(), data, training, rng=Rng(1), log=lambda entry: None)
    assert float(merging.alpha.detach().abs().min()) > 0
    assert all(torch.equal(before[k], v) for k, v in merging.experts.state_dict().items())
    made, cond = merging.dense(), {"label": Y["label"]}
    assert torch.allclose(made(X.float(), T.float(), cond), merging(X.float(), T.float(), cond), atol=1e-6)
    assert all(p.requires_grad for p in made.parameters())


@pytest.mark.parametrize("router", [TopGroups(1.0), TopGroups(1.0, 0.0), Prefix(), ReLURouter()], ids=repr)
def test_groups_of_all_channels_are_the_dense_feed(router):
    net = trained()
    assert difference(grouped(net, 4, router), net) <= 1e-12


def test_groups_that_are_left_out_are_channels_of_zero():
    net = trained()
    made = grouped(net, 8, TopGroups(0.5, 1.0))  # the first half of the groups, always
    with torch.no_grad():
        for block, dense in zip(made.block, net.block, strict=True):
            order = (dense.mlp[0].weight.norm(dim=1) * dense.mlp[3].weight.norm(dim=0)).argsort(descending=True)
            dense.mlp[3].weight[:, order[len(order) // 2 :]] = 0
            block.mlp.second.copy_((dense.mlp[3].bias / 4).expand_as(block.mlp.second))
    assert difference(made, net) <= 1e-12
    few = grouped(trained(), 8, Prefix())
    with torch.no_grad():
        for block in few.block:
            block.mlp.route.gate.bias.copy_(torch.eye(9)[3])
    wanted = sum(p.numel() for n, p in few.block[0].mlp.named_parameters() if n in ("up", "down")) * 3 // 8
    found = few.block[0].mlp.route(X.flatten()[:16][None], torch.zeros(1).long(), Layout((1,)))
    per_group = few.block[0].mlp.up[0].numel() + few.block[0].mlp.down[0].numel()
    assert int(found.runs.sum()) * per_group == wanted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: upcycle(trained(feed=PEER(4, 2, 2))), "feed=FeedForward"),
        (lambda: upcycle(trained(), 4, ReLURouter()), "sum to 1"),
        (lambda: upcycle(trained(), 2, TopK(3)), "1 to 2"),
        (lambda: grouped(trained(), 7), "divisor of 64"),
        (lambda: merge(trained()), "size of the dense feed"),
        (lambda: merge(trained(feed=Experts(4))), "size of the dense feed"),
        (lambda: merge(upcycle(trained()), 1.5), "0 to 1"),
    ],
)
def test_networks_that_do_not_fit_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
