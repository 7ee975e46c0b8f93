"""Low-rank changes with gates: exact in the first layer, equal to the base and to one adapter where they should be."""

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.networks.adapters.low_rank import LowRank, with_adapters
from beeline.networks.attending.blocks import with_attention
from beeline.sampling.editing.attention.adapters import MaskedAdapters, over_tokens
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.editing.resampled import InvertAndSample
from tests.networks.test_skipping import COND, T, X, network


def adapters(net, scale=1.0):
    made = [LowRank(net, 3, scale, seed=k) for k in (0, 1)]
    for k, one in enumerate(made):
        for i, up in enumerate(one.up.values()):
            up.data = 0.5 * bl.Rng(k).fork(i).normal(up)
    return made


HALF = (torch.arange(16) % 4 < 2).float().expand(4, 16)  # tokens of the left half of a grid of 4 x 4
LEFT = torch.zeros(8, 8)
LEFT[:, :4] = 1


def queries(field):
    seen = []
    tapped = with_attention(field, ["block.0"], lambda a: seen.append(torch.cat([a.q, a.k, a.v], 1)) or a.softmax())
    tapped(X, T, COND)
    return seen[0].transpose(1, 2)  # by token


def test_a_partition_gives_every_token_of_the_first_layer_that_of_its_own_adapter():
    net = network()
    one, two = adapters(net)
    both = queries(with_adapters(net, [one, two], [HALF, 1 - HALF]))
    left, right = (queries(with_adapters(net, [a])) for a in (one, two))
    at = HALF[0] > 0
    assert torch.allclose(both[:, at], left[:, at], atol=1e-6) and torch.allclose(
        both[:, ~at], right[:, ~at], atol=1e-6
    )
    assert (left - right).abs().max() > 0.1


def test_no_gate_is_the_base_and_a_gate_of_ones_the_ordinary_adapter():
    net = network()
    one, two = adapters(net)
    plain = net(X, T, COND)
    assert torch.equal(with_adapters(net, [one, two], [0 * HALF, 0 * HALF])(X, T, COND), plain)
    assert torch.equal(with_adapters(net, [LowRank(net)])(X, T, COND), plain)  # as it starts
    ordinary = with_adapters(net, [one])(X, T, COND)
    assert torch.equal(with_adapters(net, [one], [0 * HALF + 1])(X, T, COND), ordinary)
    assert (ordinary - plain).abs().max() > 1e-2 and torch.equal(net(X, T, COND), plain)
    merged = network()
    for i, block in enumerate(merged.backbone.block):
        for path in ("qkv", "out"):
            name = f"block/{i}/mix/{path}"
            layer = getattr(block.mix, path)
            layer.weight.data += one.up[name].data @ one.down[name].data
    assert torch.allclose(merged(X, T, COND), ordinary, atol=1e-4)


def test_gates_are_repeated_for_batches_of_guidance_and_adapters_learn():
    net = network()
    one, _ = adapters(net)
    field = with_adapters(net, [one], [HALF])
    twice = field(torch.cat([X, X]), torch.cat([T, T]), {"label": COND["label"].repeat(2)})
    assert torch.allclose(twice[:4], twice[4:], atol=1e-5)
    with_adapters(net, [one])(X, T, COND).square().mean().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in one.parameters())


def test_concepts_change_where_their_region_is():
    net = network()
    with torch.no_grad():
        for p in net.parameters():
            p *= 0.7
    made = adapters(net)
    flow, sampler = bl.Flow(net), bl.Sampler(4)
    edit = MaskedAdapters(tuple(made), (GivenRegion(LEFT), GivenRegion(1 - LEFT)))
    none = MaskedAdapters(tuple(made), (GivenRegion(0 * LEFT), GivenRegion(0 * LEFT)))
    given = X, COND, COND, sampler, bl.Rng(0)
    plain = InvertAndSample()(flow, *given)
    assert torch.equal(none(flow, *given), plain) and torch.equal(MaskedAdapters()(flow, *given), plain)
    assert (edit(flow, *given) - plain).abs().max() > 1e-2
    assert torch.equal(over_tokens(LEFT.expand(4, 1, 8, 8), 4, 4), HALF)


def test_refusals():
    net = network()
    with pytest.raises(BeelineError, match="2 adapters got 1 masks"):
        with_adapters(net, adapters(net), [HALF])
    with pytest.raises(BeelineError, match="no linear layer with such a name"):
        LowRank(net, layers=("query",))
    with pytest.raises(BeelineError, match="layers that act on tokens"):
        with_adapters(net, [LowRank(net, layers=("tell",))], [HALF])(X, T, COND)
    with pytest.raises(BeelineError, match="1 adapters and 0 regions"):
        MaskedAdapters((LowRank(net),))
    points = bl.Network(bl.networks.MLP(2, width=8))
    with pytest.raises(BeelineError, match="does not declare the tokens"):
        with_adapters(points, [LowRank(points, layers=("",))], [HALF])
