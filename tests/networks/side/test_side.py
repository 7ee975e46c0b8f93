"""Side networks: exact recurrences, no activation of the base is kept, and derivatives in few bits."""

import copy

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.adapting import SideTuned
from beeline.fields.flow import Flow
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.networks.side.bits import Lean, packed, saved_in_bits, unpacked
from beeline.networks.side.bridge import Bridged
from beeline.networks.side.reading import DepthReader
from beeline.objectives.matching import FlowMatching
from tests.networks.guided.test_guided_networks import COND, T, X, network, shaken

ROWS, AT = Rng(3).normal(torch.empty(5, 2)), torch.linspace(0.1, 0.9, 5)


def plain(depth=3, width=16):
    with Rng(1).ambient():
        return shaken(MLP(2, width=width, depth=depth))


def kept_bytes(net, x=ROWS, t=AT, cond=None):
    """Bytes that a forward pass keeps for the backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    seen = {}

    def note(saved):
        if saved.untyped_storage().data_ptr() not in weights:
            seen[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        out = net(x, t, cond) if cond is not None else net(x, t)
    return sum(seen.values()), out


@pytest.mark.parametrize("name", ["mlp", "dit"])
def test_a_reader_starts_at_the_base_and_gives_its_weights_no_gradient(name):
    flow = Flow(network(name))
    with Rng(4).ambient():
        net = SideTuned(rank=4).networks(flow)["student"]
    assert torch.equal(net(X, T, COND), flow.field(X, T, COND))
    shaken(net)
    FlowMatching()(net, Batch(X, cond=COND), Rng(0)).value.backward()
    took = {n for n, p in net.named_parameters() if p.grad is not None}
    assert took == {n for n, p in net.named_parameters() if p.requires_grad} and len(took) == 8
    assert all(n.split(".")[1] in ("down", "cell", "up") for n in took)
    assert (net(X, T, COND) - flow.field(X, T, COND)).abs().max() > 1e-3


def test_a_reader_is_the_recurrence_over_the_outputs_of_the_blocks():
    base = plain()
    with Rng(5).ambient():
        net = shaken(DepthReader(copy.deepcopy(base), 16, rank=4))
    h, told, out = base.stages(ROWS, AT)
    state = torch.zeros(5, 4)
    for block, m in zip(base.block, told, strict=False):
        h = block(h, *m)
        state = net.cell(net.down(h), state)
    assert torch.allclose(net(ROWS, AT), out(h + net.up(state)), atol=1e-6)
    with pytest.raises(BeelineError, match="declares its blocks"):
        DepthReader(nn.Linear(2, 2), 2)


def test_no_activation_of_the_base_is_kept():
    x, t = Rng(6).normal(torch.empty(256, 2)), torch.rand(256)
    found = {}
    for depth in (2, 8):
        with Rng(4).ambient():
            side = shaken(DepthReader(plain(depth, 64), 64, rank=1))
            delta = adapted(plain(depth, 64), LoRA(1))
        found[depth] = kept_bytes(side, x, t)[0], kept_bytes(delta, x, t)[0]
    side, delta = (found[8][k] - found[2][k] for k in (0, 1))
    rows = 256 * 4  # of float32 numbers
    # the reader keeps the outputs of blocks, which its first layer reads, and the state of its cell
    assert side <= 6 * rows * (64 + 16), "one output of every block and its own numbers"
    assert delta >= 3 * 6 * rows * 64, "a delta keeps several activations of every block"


def test_an_old_network_guides_a_new_one_by_its_blocks_alone():
    new, old = plain(4), plain(2, 8)
    with Rng(4).ambient():
        net = Bridged(copy.deepcopy(new), copy.deepcopy(old), [16] * 4, [8] * 2)
    assert net.source == [0, 0, 1, 1] and torch.equal(net(ROWS, AT), new(ROWS, AT))
    shaken(net)
    h, told, out = new.stages(ROWS, AT)
    g, old_told, _ = old.stages(ROWS, AT)
    given = []
    for block, m in zip(old.block, old_told, strict=False):
        given.append(g := block(g, *m))
    for k, (block, m) in enumerate(zip(new.block, told, strict=False)):
        h = block(h, *m) + net.maps[k](given[net.source[k]])
    assert torch.allclose(net(ROWS, AT), out(h), atol=1e-6)
    net(ROWS, AT).sum().backward()
    assert {n.split(".")[0] for n, p in net.named_parameters() if p.grad is not None} == {"maps"}
    styled = adapted(old, LoRA(2))
    for layer in changed_layers(styled).values():
        shaken(layer.changes)
    assert (net.with_old(styled)(ROWS, AT) - net(ROWS, AT)).abs().max() > 1e-3
    with pytest.raises(BeelineError, match="one for each"):
        Bridged(new, old, [16] * 4, [8] * 3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_derivatives_are_packed_without_bias_and_within_a_step(bits):
    x = Rng(0).normal(torch.empty(7, 13))
    with Rng(1).ambient():
        made = torch.stack([unpacked(*packed(x, bits), x.shape, bits) for _ in range(400)])
    step = (x.amax(1) - x.amin(1)) / (2**bits - 1)
    assert ((made - x).abs().amax((0, 2)) <= step * 1.001).all()
    assert ((made.mean(0) - x).abs() <= 5 * step[:, None] / 2 / 400**0.5).all(), "five standard errors"
    assert packed(x, bits)[0].numel() == -(-x.numel() * bits // 8)


def test_activations_in_bits_change_no_output_and_keep_an_eighth():
    with Rng(1).ambient():
        net = shaken(DiT((1, 8, 8), width=64, depth=2, heads=2))
    before, out = kept_bytes(net, X, T)
    (g,) = torch.autograd.grad(out.square().sum(), net.block[0].mlp[0].weight)
    with saved_in_bits(net) as count, Rng(2).ambient():
        after, same = kept_bytes(net, X, T)
        (lean,) = torch.autograd.grad(same.square().sum(), net.block[0].mlp[0].weight)
    assert count >= 2 and torch.equal(out, same) and isinstance(net.block[0].mlp[1], nn.GELU)
    assert torch.cosine_similarity(g.flatten(), lean.flatten(), 0) > 0.999
    hidden = 2 * 4 * 64 * net.block[0].mlp[0].out_features // 64 * net.grid[0] * net.grid[1]  # numbers before GELU
    assert before - after >= 4 * hidden * 0.7, "four bytes become half a byte, a least value and a step a row"
    relu = Lean(nn.ReLU())
    x = Rng(3).normal(torch.empty(4, 50)).requires_grad_()
    relu(x).sum().backward()
    assert torch.equal(x.grad, (x > 0).float()), "two values need one bit"
    with pytest.raises(BeelineError, match="no activation"), saved_in_bits(nn.Linear(2, 2)):
        pass
    with pytest.raises(BeelineError, match="1, 2, 4 or 8"):
        Lean(nn.SiLU(), 3)
