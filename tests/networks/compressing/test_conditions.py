"""Fewer tokens of conditions: equal tokens are merged without an error, padding is left out."""

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.adapters.inside import with_backbone
from beeline.networks.compressing.compressor import Call, Probe
from beeline.networks.compressing.removal.conditions import FewerConditionTokens, ReduceConditions
from beeline.networks.dit import DiT, MMDiT
from beeline.networks.mlp import MLP
from beeline.networks.published.presets import PixArt
from beeline.networks.transformer.plans.reduction import Reduce

TEXT = {"text": {"length": 8, "size": 4}}
X, T = Rng(0).normal(torch.empty(3, 1, 8, 8)), torch.tensor([0.2, 0.5, 0.9])


def network(kind=MMDiT, **more):
    with Rng(1).ambient():
        net = kind((1, 8, 8), width=16, depth=2, heads=2, conditions=TEXT, **more)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return net.eval()


def texts(seed=2):
    return Rng(seed).normal(torch.empty(3, 8, 4))


def error(share, text, net=None):
    net = network() if net is None else net
    with torch.no_grad():
        wanted = net(X, T, {"text": text})
        return float((FewerConditionTokens(net, share)(X, T, {"text": text}) - wanted).norm() / wanted.norm())


def test_equal_tokens_are_merged_without_an_error():
    text = texts()
    text[0, 4:], text[1, 1::2], text[2] = text[0, :4], text[1, ::2], text[2, :1]  # pairs, neighbours, all of one row
    assert error(0.5, text) < 1e-6
    assert error(0.5, text, network(plan=Reduce(0.25))) < 1e-6  # with fewer tokens of the datum beside them
    for share in (0.25, 0.5):
        assert error(share, text, network(PixArt)) < 1e-6
    assert error(0.25, text, network(PixArt, plan=Reduce(0.25))) < 1e-6
    assert error(0.625, text) > 1e-4  # one more than there are equal ones


def test_padding_is_left_out_first():
    text = texts()
    text[0, 4:], text[1, ::2], text[2] = 0, 0, 0  # at the end, between the words, and no text at all
    assert error(0.5, text) < 1e-6
    assert error(0.75, text) > 1e-4


def test_none_is_left_out_at_the_share_zero():
    net, text = network(), texts()
    assert torch.equal(FewerConditionTokens(net, 0.0)(X, T, {"text": text}), net(X, T, {"text": text}))


def test_blocks_see_fewer_tokens_and_through_caches_too():
    net, text, seen = network(), texts(), []
    net.visits[0][1].register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    small = FewerConditionTokens(net, 0.5)
    out = small(X, T, {"text": text})
    stages = small.stages(X, T, {"text": text})
    assert seen == [16 + 4] and stages.h.shape[1] == 16 + 4
    h = stages.h
    for (_, block), told in zip(net.visits, stages.told[:-1], strict=True):
        h = block(h, *told)
    assert torch.allclose(stages.out(h, *stages.told[-1]), out, atol=1e-6)


def test_as_a_compressor(tmp_path):
    net, text = bl.Network(network()), {"text": texts()}
    probe = Probe([Call(X, T, text)])
    method = ReduceConditions(0.25)
    small = with_backbone(net, lambda inner: method.apply(inner, method.plan(inner, probe), probe, Rng(3)))
    bl.Bundle(bl.Flow(small), bl.Sampler(2), modality=None).save(tmp_path / "small")
    again = bl.load(tmp_path / "small").flow.field
    with torch.no_grad():
        assert torch.equal(again(X, T, text), small(X, T, text))
    with pytest.raises(BeelineError, match="reads? no tokens of conditions"):
        method.plan(DiT((1, 8, 8), width=16, depth=1, heads=2), probe)
    with pytest.raises(BeelineError, match="got a MLP without a flow transformer"):
        method.plan(MLP(2, width=8, depth=1), probe)
