"""Deltas that choose: planted layers are found by gates, and kept inputs keep their outputs."""

import copy

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Network
from beeline.networks.adapters.adapted import Adapted, adapted, merged
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.members.chosen import Gated, NullSpace, gates, input_moments, keeping
from beeline.networks.mlp import MLP

WIDE = torch.empty(3, 2, dtype=torch.float64)
OLD = (3 * Rng(0).normal(WIDE), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))  # of an earlier task
NEW = (Rng(1).normal(WIDE.new_empty(64, 2)), Rng(2).uniform(64, WIDE))


def base(depth=3):
    with Rng(3).ambient():
        net = MLP(2, width=24, depth=depth)
        for p in net.parameters():
            p.data += 0.2 * torch.randn_like(p)
    return net


def shaken(net):
    with torch.no_grad(), Rng(4).ambient():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn_like(p))
    return net


def test_a_sequence_of_tasks_keeps_the_outputs_for_the_inputs_of_each_before():
    net = base()
    with Rng(5).ambient():
        plain, net = (Adapted(copy.deepcopy(net), NullSpace(2, kept=8)).double() for _ in range(2))
    net = keeping(net, input_moments(net, lambda n: n(*OLD)))
    before = net(*OLD)
    shaken(net)
    assert (net(*OLD) - before).abs().max() <= 1e-6
    moved = (net(*NEW) - base().double()(*NEW)).abs().max()
    assert moved > 0.01, "it still learns elsewhere"
    assert (shaken(plain)(*OLD) - before).abs().max() > 0.01, "without directions it forgets"
    assert (merged(net)(*OLD) - before).abs().max() <= 1e-6
    second = (OLD[0] + 1, OLD[1])  # a second task after the first: both are kept
    with Rng(6).ambient():
        third = Adapted(net, NullSpace(2, kept=8)).double()
    both = tuple(torch.cat(pair) for pair in zip(OLD, second, strict=True))
    third = keeping(third, input_moments(third, lambda n: n(*both)))
    outputs = third(*both)
    for layer in changed_layers(third).values():
        shaken(layer.changes[-1])
    assert (third(*both) - outputs).abs().max() <= 1e-6


def test_directions_are_refused_where_they_have_no_place():
    with pytest.raises(BeelineError, match="NullSpace"):
        keeping(Adapted(base(), LoRA(2)), {})
    with pytest.raises(BeelineError, match="no moments"):
        keeping(Adapted(base(), NullSpace(2)), {})
    with pytest.raises(BeelineError, match="Gated"):
        gates(adapted(Network(base()), LoRA(2)))


class Beside(torch.nn.Module):
    """Six layers that cannot do the work of one another."""

    def __init__(self):
        super().__init__()
        self.parts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(6))

    def forward(self, x, t, cond=None):
        return torch.cat([part(x) for part in self.parts], 1)


def test_gates_find_the_layers_that_differ():
    with Rng(7).ambient():
        target, x = Beside(), torch.randn(64, 4)
        net = copy.deepcopy(target)
        for k in (1, 4):
            target.parts[k].weight.data += torch.randn(4, 4)
        made = Adapted(net, Gated(LoRA(2), temperature=0.2), [f"parts.{k}" for k in range(6)])
    adam = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=2e-2)
    wanted = target(x, None).detach()
    for _ in range(60):
        adam.zero_grad()
        (made(x, None) - wanted).square().mean().backward()
        adam.step()
    found = gates(made)
    assert list(found.values()) == sorted(found.values(), reverse=True) and len(found) == 6
    assert set(list(found)[:2]) == {"parts.1", "parts.4"} and found["parts.1"] > 0.6 and found["parts.0"] < 0.51, found
