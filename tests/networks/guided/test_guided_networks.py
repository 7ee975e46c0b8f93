"""Networks for distilled guidance: without effect at scale one, and bit by bit the network inside."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Network
from beeline.networks.dit import DiT
from beeline.networks.guided.adapters import BlockAdapters, SideNetwork, side_network
from beeline.networks.guided.scaled import with_scale_input
from beeline.networks.hooks import block_paths
from beeline.networks.mlp import MLP
from beeline.networks.unet import UNet
from beeline.objectives.games.adversarial import channels_of

LABEL = {"label": {"classes": 3}, "a": {"size": 2}}  # one name before beta and one after it
MADE = {
    "mlp": (lambda c: MLP(shape=(1, 8, 8), width=16, depth=2, conditions=c)),
    "unet": (lambda c: UNet((1, 8, 8), width=16, multipliers=(1, 2), blocks=1, conditions=c)),
    "dit": (lambda c: DiT((1, 8, 8), width=16, depth=2, heads=2, patch=4, conditions=c)),
}
COND = {"label": torch.tensor([0, 1, 2, 0]), "a": torch.ones(4, 2)}
X, T = Rng(0).normal(torch.empty(4, 1, 8, 8)), torch.tensor([0.1, 0.4, 0.6, 0.9])


def network(name):
    with Rng(1).ambient():
        made = Network(MADE[name](LABEL))
    return shaken(made)


def shaken(net):
    with torch.no_grad():
        for i, p in enumerate(q for q in net.parameters() if q.requires_grad):
            p += 0.1 * Rng(2).fork(i).normal(p)
    return net


@pytest.mark.parametrize("name", MADE)
def test_one_more_input_has_no_effect_at_first(name):
    net = network(name)
    wider = with_scale_input(net)
    known = net(X, T, COND)
    for beta in (0.2, 1.0):
        assert torch.allclose(wider(X, T, {**COND, "beta": torch.full((4, 1), beta)}), known, atol=1e-6)
    moved = shaken(wider)
    apart = [moved(X, T, {**COND, "beta": torch.full((4, 1), beta)}) for beta in (0.2, 1.0)]
    assert not torch.allclose(*apart)
    assert with_scale_input(wider) is not wider
    with pytest.raises(BeelineError, match="no further condition"):
        with_scale_input(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("kind", ["adapters", "side"])
def test_a_trained_part_is_without_effect_at_scale_one(name, kind):
    net = network(name)
    known = net(X, T, COND)
    if kind == "adapters":
        made = BlockAdapters(net, [channels_of(net, path) for path in block_paths(net)], width=4)
    else:
        made = SideNetwork(net, side_network(net, 8))
    inside = sum(p.numel() for p in net.parameters())
    trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert 0 < trained < inside
    half, one = ({**COND, "beta": torch.full((4, 1), beta)} for beta in (0.5, 1.0))
    assert torch.equal(made(X, T, half), known)  # zero at first
    shaken(made)
    assert torch.equal(made(X, T, one), known) and torch.equal(made(X, T, COND), known)
    assert not torch.allclose(made(X, T, half), known)
    mixed = {**COND, "beta": torch.tensor([[1.0], [0.5], [1.0], [0.5]])}
    assert torch.equal(made(X, T, mixed)[0], known[0])
    assert all(not p.requires_grad for p in net.parameters())
