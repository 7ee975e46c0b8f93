"""Larger transformers compute what the trained ones do, and their new weights learn."""

import itertools

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.dit import DiT, MMDiT, UViT
from beeline.networks.growing.grow import grow
from beeline.networks.transformer.blocks import Parallel, Peri, ReZero
from beeline.networks.transformer.experts import PEER, Experts
from beeline.networks.transformer.feeds import CauchyFeed, SwiGLU
from beeline.networks.transformer.groups import Groups, Prefix
from beeline.networks.transformer.mixers import LinearAttention
from beeline.networks.transformer.modulations import AdaLNLoRA, AdaLNSingle, TimeDependent
from beeline.networks.transformer.plans.plan import Shared
from beeline.networks.transformer.positions import Learned, Rotary
from beeline.networks.transformer.routers import BiasBalanced, Prototypes, ReLURouter, SharedTop

LABEL = {"label": {"classes": 10}}
X = Rng(0).normal(torch.empty(3, 1, 8, 8, dtype=torch.float64))
T, Y = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), {"label": torch.tensor([1, 2, 10])}
SIZES = [{"width": 48}, {"ratio": 6.0}, {"depth": 6}, {"width": 32, "ratio": 5.0, "depth": 5}]
PARTS = [
    {}, {"feed": SwiGLU()}, {"feed": CauchyFeed()}, {"feed": Experts(4)},
    {"feed": Experts(3, Prototypes(1), shared=True)},
    {"feed": Experts(4, BiasBalanced())}, {"feed": Experts(4, ReLURouter(), share=4)}, {"wiring": Peri()},
    {"wiring": Parallel()}, {"modulation": ReZero()}, {"modulation": AdaLNSingle()}, {"modulation": AdaLNLoRA()},
    {"modulation": TimeDependent()},
    {"modulation": AdaLNSingle(), "wiring": Peri()}, {"positions": Learned()}, {"positions": Rotary()},
    {"mixer": LinearAttention()}, {"span": True}, {"feed": Groups(4)}, {"feed": Groups(4, Prefix())},
    {"feed": Experts(4, SharedTop(2))},
]  # fmt: skip


def trained(kind, depth=3, **more):
    """A network whose gates are not zero, in float64."""
    with Rng(2).ambient(), torch.no_grad():
        net = kind((1, 8, 8), width=16, depth=depth, heads=2, conditions=LABEL, **more)
        for value in net.state_dict().values():
            value.add_(0.1 * torch.randn_like(value))
    return net.double().eval()


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_a_larger_network_computes_the_same(parts):
    net = trained(DiT, **parts)
    for sizes in SIZES[3:] if parts else SIZES:
        made = grow(net, Rng(3), **sizes)
        assert (made(X, T, Y) - net(X, T, Y)).abs().max() <= 1e-12
        assert sum(p.numel() for p in made.parameters()) > sum(p.numel() for p in net.parameters())
    again = grow(grow(net, Rng(4), depth=4), Rng(5), width=32)
    assert (again(X, T, Y) - net(X, T, Y)).abs().max() <= 1e-12


@pytest.mark.parametrize(("depth", "more"), list(itertools.product((2, 3), (1, 2, 3))))
def test_long_skips_keep_their_pairs(depth, more):
    net = trained(UViT, depth)
    made = grow(net, Rng(3), depth=depth + more)
    assert len(made.skip) == (depth + more) // 2
    assert (made(X, T, Y) - net(X, T, Y)).abs().max() <= 1e-12


def test_two_streams_and_sequences_grow():
    conditions = {"text": {"length": 3, "size": 4}, "v": {"size": 2}, **LABEL}
    with Rng(2).ambient(), torch.no_grad():
        net = MMDiT((1, 8, 8), width=16, depth=2, single=1, heads=2, conditions=conditions)
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    net = net.double()
    cond = {"text": Rng(1).normal(torch.empty(3, 3, 4).double()), "v": Rng(2).normal(torch.empty(3, 2).double()), **Y}
    for sizes in SIZES:
        assert (grow(net, Rng(3), **sizes)(X, T, cond) - net(X, T, cond)).abs().max() <= 1e-12


@pytest.mark.parametrize(
    "parts", [{}, {"modulation": AdaLNSingle()}, {"modulation": AdaLNSingle(), "wiring": Peri()}], ids=str
)
def test_new_weights_learn(parts):
    """After two steps all weights have a gradient, and the copies of a channel differ."""
    net = trained(DiT, **parts)
    made = grow(net, Rng(3), width=32, ratio=5.0, depth=5).train()
    descent = torch.optim.SGD(made.parameters(), 1e-3)
    for _ in range(3):
        descent.zero_grad()
        (made(X, T, Y) - X).square().mean().backward()
        descent.step()
    still = [
        n
        for n, p in made.named_parameters()
        if not bool((p.grad.flatten(1) if p.ndim > 1 else p.grad[:, None]).abs().sum(1).gt(0).all())
    ]
    assert [n for n in still if "cond.parts" not in n and "gain" not in n] == []
    weight = made.inp.weight.detach()
    assert float((weight[0::2] - weight[1::2]).abs().max()) > 0


def test_networks_that_share_blocks_grow_in_width():
    net = trained(DiT, plan=Shared(2))
    assert (grow(net, width=32)(X, T, Y) - net(X, T, Y)).abs().max() <= 1e-12
    with pytest.raises(BeelineError, match="Shared"):
        grow(net, depth=4)


def test_half_precision_and_the_trained_network_stay():
    net = trained(DiT).bfloat16()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made = grow(net, width=32)
    assert made.inp.weight.dtype == torch.bfloat16 and not made.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    first, second = (grow(trained(DiT), Rng(1), width=32).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first), "the same key gives the same network"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 24}, "32 or another multiple"),
        ({"width": 8}, "16 or more"),
        ({"depth": 2}, "3 or more"),
        ({}, "no larger size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(BeelineError, match=message):
        grow(trained(DiT), **sizes)


def test_parts_without_a_rule_grow_in_depth_alone():
    net = trained(DiT, feed=PEER(4, 2, 2))
    with pytest.raises(BeelineError, match="Retrieval"):
        grow(net, width=32)
    assert (grow(net, depth=4)(X, T, Y) - net(X, T, Y)).abs().max() <= 1e-12
