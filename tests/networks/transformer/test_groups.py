"""Feeds of which a part is computed against their formulas."""

import itertools

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Network
from beeline.networks.dit import DiT
from beeline.networks.transformer.groups import Duo, Groups, Prefix, TopGroups, choose, plans
from beeline.networks.transformer.layout import Layout
from beeline.objectives.alignment import Noted
from beeline.objectives.matching import FlowMatching

H = Rng(0).normal(torch.empty(2, 8, 16, dtype=torch.float64))
LAYOUT = Layout((8,), noting=True)


def feed(spec, gate=0.3):
    with Rng(1).ambient(), torch.no_grad():
        made = spec.build(16, 32, 0.0).double()
        for p in made.parameters():
            p.add_(gate * torch.randn_like(p))
    return made.eval()


def one_by_one(made, weights):
    """sum_g weight_g (W2_g gelu(W1_g u + b1_g) + b2_g) for weights [B,N,G]."""
    out = torch.zeros_like(H)
    for g in range(made.up.shape[0]):
        y = torch.nn.functional.gelu(H @ made.up[g] + made.first[g]) @ made.down[g] + made.second[g]
        out = out + weights[..., g : g + 1] * y
    return out


@pytest.mark.parametrize(("share", "always"), [(0.5, 0.75), (0.25, 0.0), (0.5, 1.0), (1.0, 0.5)])
def test_the_best_groups_have_their_share_exactly(share, always):
    made = feed(Groups(8, TopGroups(share, always)))
    s = torch.softmax(made.route.gate(H), -1)
    active, fixed = int(8 * share), int(8 * share * always)
    mask = torch.zeros_like(s)
    mask[..., :fixed] = 1
    for b, i in itertools.product(range(2), range(8)):
        for g in s[b, i, fixed:].topk(active - fixed).indices:
            mask[b, i, fixed + g] = 1
    wanted = active * s * mask / (s * mask).sum(-1, keepdim=True)
    assert torch.allclose(made(H, LAYOUT)[0], one_by_one(made, wanted), atol=1e-12)
    assert bool((mask.sum(-1) == active).all())


def test_a_prefix_is_what_is_computed_of_it():
    """What is left out costs nothing when drawing; in training all groups run, so that the gate learns."""
    made = feed(Groups(4, Prefix()), 1.0)
    number = made.route.gate(H).argmax(-1)
    assert len(number.unique()) > 2
    wanted = (torch.arange(1, 5) <= number[..., None]).double()
    assert torch.allclose(made(H, LAYOUT)[0], one_by_one(made, wanted), atol=1e-12)
    route = made.route(H.flatten(0, 1), torch.arange(16) // 8, LAYOUT)
    assert torch.equal(route.runs, wanted.flatten(0, 1) > 0) and torch.isclose(route.notes["kept"], wanted.mean())
    made.train()
    with Rng(5).ambient():
        out, notes = made(H, LAYOUT)
    (out.square().sum() + notes["budget"]).backward()
    assert bool((made.route.gate.weight.grad.abs().sum(1) > 0).all())
    assert 0 <= float(notes["certainty"].detach()) <= 1 and float(notes["alike"].detach()) <= 0
    with torch.no_grad():
        made.route.gate.weight.zero_()
        made.route.gate.bias.zero_()
    even = made.route(H.flatten(0, 1), torch.arange(16) // 8, LAYOUT).notes
    assert abs(float(even["certainty"])) < 1e-12 and abs(float(even["alike"])) < 1e-12


def test_the_budget_is_reached():
    """The mean share of groups goes to the budget where the loss is that alone."""
    made = feed(Groups(4, Prefix(0.5)), 0.0).float().train()
    adam = torch.optim.Adam(made.parameters(), 0.05)
    shares = []
    with Rng(3).ambient():
        for _ in range(150):
            notes = made(H.float(), LAYOUT)[1]
            adam.zero_grad()
            notes["budget"].backward()
            adam.step()
            shares.append(float(notes["kept"]))
    assert shares[0] > 0.75 and abs(sum(shares[-50:]) / 50 - 0.5) < 0.06


def test_plans_of_two_sizes_are_what_they_say():
    made = feed(Duo(4))
    every = [torch.zeros_like(H), made.small(H)[0], made.big(H)[0]]
    assert torch.equal(made(H, LAYOUT)[0], every[2]), "the big one at first"
    for number in range(3):
        choose(made, [number])
        assert torch.equal(made(H, LAYOUT)[0], every[number])
    made.train()
    with Rng(1).ambient():
        out = made(H, LAYOUT)[0]
    hits = torch.stack([(out - value).abs().amax(-1) < 1e-12 for value in every])
    assert bool((hits.sum(0) == 1).all()) and bool(hits.flatten(1).any(1).all()), "one of the three for every token"
    with Rng(0).ambient():
        net = DiT((1, 8, 8), width=16, depth=2, heads=2, feed=Duo())
    assert len(list(plans(2))) == 9
    choose(net, (0, 1))
    assert [int(block.mlp.choice) for block in net.block] == [0, 1]
    with pytest.raises(BeelineError, match="2 feeds"):
        choose(net, (1, 1, 1))
    with pytest.raises(BeelineError, match="0 for nothing"):
        choose(net, (1, 3))


def test_notes_of_groups_are_terms_of_a_loss():
    with Rng(0).ambient():
        net = Network(DiT((1, 8, 8), width=16, depth=1, heads=2, feed=Groups(4, Prefix())))
    weights = {"budget": 1.0, "certainty": 0.1, "alike": 0.1}
    loss = Noted(FlowMatching(), weights)(net, Batch(Rng(1).normal(torch.empty(4, 1, 8, 8))), Rng(2))
    loss.value.backward()
    assert set(weights) <= set(loss.terms) and bool(net.backbone.block[0].mlp.route.gate.bias.grad.abs().sum() > 0)
    with pytest.raises(BeelineError, match="divisor of 64"):
        DiT((1, 8, 8), width=16, depth=1, heads=2, feed=Groups(5))
