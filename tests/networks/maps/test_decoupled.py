"""Networks whose first blocks take the start of a jump, and whose last ones its end."""

from __future__ import annotations

import pytest
import torch

import beeline as bl
from beeline.fields.flow import Data, Network
from beeline.networks.maps.decoupled import DecoupledTimes, decoupled


def network(kind: str = "DiT", **more: object) -> Network:
    with bl.Rng(0).ambient():
        if kind == "MLP":
            net = bl.networks.MLP(shape=(1, 4, 4), width=16, depth=4)
        else:
            net = bl.networks.DiT((1, 4, 4), width=16, depth=4, heads=2)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return Network(net, **more).eval()


@pytest.mark.parametrize("kind", ["DiT", "MLP"])
def test_on_the_diagonal_it_is_the_network_bit_by_bit(kind: str) -> None:
    net, x, t = network(kind), torch.randn(5, 1, 4, 4), torch.rand(5)
    for share in (0.1, 2 / 3, 0.9):
        made = decoupled(net, share)
        assert torch.equal(made(x, t), net(x, t)) and torch.equal(made(x, t, None, t.clone()), net(x, t))
        assert len(list(made.parameters())) == len(list(net.parameters()))
    assert [decoupled(net, share).first for share in (0.0, 0.5, 2 / 3, 1.0)] == [1, 2, 3, 3]


def test_the_end_of_the_jump_reaches_the_last_blocks_and_the_output_only() -> None:
    net, x, t = network(), torch.randn(5, 1, 4, 4), torch.rand(5)
    made = decoupled(net, 0.5)
    seen: list[torch.Tensor] = []
    handle = made.backbone.block[1].register_forward_hook(lambda module, inputs, out: seen.append(out))
    one, two = made(x, t, None, torch.zeros(5)), made(x, t, None, torch.ones(5))
    handle.remove()
    assert torch.equal(seen[0], seen[1]) and not torch.allclose(one, two)


def test_networks_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(ValueError, match="one sequence of blocks|divides one sequence"):
        decoupled(Network(bl.networks.UNet((1, 4, 4), width=8, multipliers=[1, 2])))
    with pytest.raises(ValueError, match="that predicts velocities"):
        decoupled(network(prediction=Data()))
    with pytest.raises(ValueError, match="it divides the blocks of a Network"):
        decoupled(bl.networks.MLP(2))
    with pytest.raises(ValueError, match="give a number from 1 to 3"):
        DecoupledTimes(network().backbone, first=4)
