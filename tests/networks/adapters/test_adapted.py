"""Networks with changed weights against explicit weights."""

import copy
import importlib.util

import pytest
import torch

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Network
from beeline.networks.adapters.adapted import Adapted, adapted, merged
from beeline.networks.adapters.delta import LoRA, changed_layers, layers_of
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.networks.unet import UNet

X, T = Rng(0).normal(torch.empty(3, 1, 8, 8)), torch.tensor([0.1, 0.5, 0.9])
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="the library peft is not installed")
DELTAS = [
    pytest.param(config.parse(f"deltas.{name}()"), id=name, marks=[needs_peft] * (name == "Peft"))
    for name in CATALOGUE["deltas"]
    if name != "Reflections"  # has a change of fixed size
]


def alive(net):
    with Rng(1).ambient(), torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def base(kind=DiT):
    with Rng(2).ambient():
        more = {"heads": 2, "depth": 2} if kind is DiT else {}
        return alive(Network(kind((1, 8, 8), width=16, **more)))


@pytest.mark.parametrize("kind", [DiT, UNet])
@pytest.mark.parametrize("delta", DELTAS)
def test_every_delta_starts_at_the_network_is_merged_and_leaves_it(delta, kind):
    net = base(kind)
    before, plain = net(X, T), copy.deepcopy(net.state_dict())
    with Rng(3).ambient():
        made = adapted(net, delta)
    assert (made(X, T) - before).abs().max() <= 1e-5, "the start"
    for layer in changed_layers(made.backbone.field).values():
        alive(layer.changes)
    changed = made(X, T)
    assert (changed - before).abs().max() > 1e-3
    assert (merged(made)(X, T) - changed).abs().max() <= 1e-5
    assert merged(made).state_dict().keys() == plain.keys()
    off = copy.deepcopy(made)
    off.backbone = made.backbone.at(0.0)
    assert torch.equal(off(X, T), before), "inactive is identical bit for bit"
    assert all(torch.equal(plain[k], v) for k, v in net.state_dict().items())
    trained = {k for k, p in made.named_parameters() if p.requires_grad}
    assert trained and all(".changes.0.numbers." in k for k in trained)
    with Rng(9).ambient():
        again = config.build(config.describe(made))
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(X, T), changed)


def test_low_rank_changes_are_explicit_sums_and_the_amount_is_a_line():
    layer = torch.nn.Linear(5, 7)
    delta = LoRA(2, scale=0.5)
    p = {"down": torch.randn(2, 5), "up": torch.randn(7, 2)}
    wanted = layer.weight + 0.5 * p["up"] @ p["down"]
    assert torch.allclose(delta.weight(layer.weight, p), wanted, atol=1e-6)
    with Rng(0).ambient():
        net = Adapted(MLP(2, width=8, depth=1), delta)
    for layer in changed_layers(net.field).values():
        alive(layer.changes)
    w = {amount: next(iter(layers_of(net.at(amount).field).values())).weight for amount in (0.0, 0.25, 1.0)}
    assert torch.allclose(w[0.25], 0.75 * w[0.0] + 0.25 * w[1.0], atol=1e-6)


def test_layers_are_chosen_by_ends_of_names():
    net = DiT((1, 8, 8), width=16, depth=2, heads=2)
    assert set(layers_of(net)) == {
        f"block.{i}.{n}" for i in range(2) for n in ("tell", "mix.qkv", "mix.out", "mlp.0", "mlp.3")
    }
    assert set(layers_of(net, ["qkv", "1.mlp.0"])) == {"block.0.mix.qkv", "block.1.mix.qkv", "block.1.mlp.0"}
    assert set(layers_of(net, ["out"])) == {"out", "block.0.mix.out", "block.1.mix.out"}
    assert set(layers_of(net, [".out"])) == {"out"}  # the whole name
    with pytest.raises(BeelineError, match="no layer 'kv'.*did you mean 'mix.qkv'|no layer 'kv'"):
        layers_of(net, ["kv"])
    with pytest.raises(BeelineError, match="rank=20"):
        Adapted(net, LoRA(20), ["mix.out"])
