"""Networks without some blocks: equal to the remaining blocks in sequence, with shared weights."""

import pytest
import torch
from torch import nn

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.networks.dit import DiT
from beeline.networks.skipping import block_names, without_blocks


def network(depth=3):
    with bl.Rng(0).ambient():
        net = DiT((1, 8, 8), width=16, depth=depth, heads=2, conditions={"label": {"classes": 3}})
        for p in net.parameters():
            nn.init.normal_(p, std=0.3)
    return bl.Network(net).eval()


X, T, COND = bl.Rng(1).normal(torch.empty(4, 1, 8, 8)), torch.linspace(0, 1, 4), {"label": torch.arange(4) % 3}


@pytest.mark.parametrize("skipped", [(), (0,), (1, 2), (0, 1, 2)])
def test_skipped_blocks_are_left_out(skipped):
    net = network()
    short = without_blocks(net, [f"block.{i}" for i in skipped])
    h, told, out = net.backbone.stages(X, T, COND)
    for i, block in enumerate(net.backbone.block):
        h = h if i in skipped else block(h, *told[i])
    assert torch.equal(short(X, T, COND), out(h, *told[-1]))


def test_weights_are_shared_and_the_network_is_unchanged():
    net = network()
    before = net(X, T, COND)
    short = without_blocks(net, ["block.0"])
    assert all(a is b for a, b in zip(net.parameters(), short.parameters(), strict=True))
    assert torch.equal(net(X, T, COND), before) and not torch.equal(short(X, T, COND), before)


def test_refusals():
    assert block_names(network()) == ("block.0", "block.1", "block.2")
    with pytest.raises(BeelineError, match=r"no block 'block.7'"):
        without_blocks(network(), ["block.7"])
    with pytest.raises(BeelineError, match="declares no repeated blocks"):
        without_blocks(nn.Linear(1, 1), ["block.0"])
