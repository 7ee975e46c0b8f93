"""Routers against their formulas: loads, capacities, prototypes and positive scores."""

import copy

import pytest
import torch
import torch.nn.functional as F

from beeline.core.declared import count, counting, settle
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Network
from beeline.networks.dit import DiT
from beeline.networks.transformer.experts import Experts
from beeline.networks.transformer.layout import Asked, Layout, collected_notes
from beeline.networks.transformer.routers import BiasBalanced, Prototypes, Rectify, ReLURouter, TopK
from beeline.objectives.alignment import Noted
from beeline.objectives.matching import FlowMatching
from beeline.training.config import Training
from beeline.training.fit import fit

LAYOUT = Layout((8,), noting=True)


def tokens(n=512, width=16, seed=0):
    return Rng(seed).normal(torch.empty(n, width, dtype=torch.float64))


def router(spec, experts=8, width=16):
    with Rng(1).ambient():
        return spec.build(width, experts).double()


def rows(h):
    return torch.arange(len(h)) // 8


def test_a_bias_balances_loads_and_takes_no_gradient():
    route, h = router(BiasBalanced(2, rate=0.02), 16), tokens(2048)
    h = h + h[:1]  # one direction is common, so that some experts are preferred
    excess = []
    for _ in range(150):
        load = torch.bincount(route(h, rows(h), LAYOUT).chosen.flatten(), minlength=16)
        with counting():
            count(route, load.tolist())
        settle(route, lambda v: v)
        excess.append(float(load.max() / load.double().mean() - 1))
    assert excess[0] > 1 and max(excess[-10:]) < 0.3
    found, s = route(h, rows(h), LAYOUT), torch.sigmoid(route.gate(h))
    index = (s + route.bias).topk(2).indices
    assert torch.equal(found.chosen, index)
    wanted = s.gather(1, index)
    assert torch.allclose(found.weight, wanted / wanted.sum(1, keepdim=True)), "the bias is no part of the weights"
    assert not route.bias.requires_grad and "bias" in route.state_dict() and "load" not in route.state_dict()


def test_the_bias_follows_the_loads_of_all_microbatches_of_a_step():
    """Two microbatches move it as one; averages of the weights copy it."""
    with Rng(0).ambient():
        first = Network(DiT((1, 8, 8), width=16, depth=2, heads=2, feed=Experts(4, BiasBalanced(1, rate=0.5))))
    made = []
    for microbatches in (1, 2):
        net = copy.deepcopy(first)
        data = Batch(Rng(1).normal(torch.empty(8, 1, 8, 8)))
        training = Training(steps=1, batch_size=8, microbatches=microbatches)
        made.append(fit(net, FlowMatching(), data, training, rng=Rng(2), log=lambda entry: None))
    for net in made:
        for block in net.backbone.block:
            assert (
                set(block.mlp.route.bias.abs().tolist()) <= {0.0, 0.5} and float(block.mlp.route.bias.abs().sum()) > 0
            )
            assert float(block.mlp.route.load.abs().sum()) == 0
    with torch.no_grad(), counting():
        made[0].eval()(data.x1, torch.zeros(8))
    assert float(made[0].backbone.block[0].mlp.route.load.sum()) == 0, "drawing is not counted"
    with counting():
        made[0].train()(data.x1, torch.zeros(8))
    assert float(made[0].backbone.block[0].mlp.route.load.sum()) == 8 * 16


@pytest.mark.parametrize("active", [1, 2])
def test_no_token_is_dropped_and_no_place_is_empty(active):
    h = tokens(64)
    h = h + h[:1]
    inner = router(TopK(active))
    plain = inner(h, rows(h), LAYOUT)
    load = torch.bincount(plain.chosen.flatten(), minlength=8)
    places = 64 * active // 8
    dropped, empty = (load - places).clamp(min=0).sum(), (places - load).clamp(min=0).sum()
    assert dropped == empty > 0
    for fill in (False, True):
        route = router(Rectify(TopK(active), fill=fill))
        found = route(h, rows(h), LAYOUT)
        assert bool((found.runs.sum(1) >= active).all()), "no token is dropped"
        assert torch.allclose(found.weight.sum(1), torch.ones(64, dtype=h.dtype))
        assert fill is bool((found.runs.sum(0) >= places).all()), "no place is empty"
        kept = torch.zeros_like(found.runs).scatter(1, plain.chosen, True)
        for e in (load <= places).nonzero()[:, 0]:
            assert bool(found.runs[kept[:, e], e].all()), "an expert with enough places keeps its tokens"
        assert torch.equal(route.eval()(h, rows(h), LAYOUT).chosen, plain.chosen), "drawing has no places"
    best = plain.scores.scatter(1, plain.chosen, -1).argmax(1)
    over = ~(router(Rectify(TopK(active), fill=False))(h, rows(h), LAYOUT).runs & kept).any(1)
    if active == 1:
        moved = router(Rectify(TopK(1), fill=False))(h, rows(h), LAYOUT).runs[over]
        assert torch.equal(moved.double().argmax(1), best[over]), "to the best remaining expert"
    wide = router(Rectify(TopK(active), capacity=8.0, fill=False))(h, rows(h), LAYOUT)
    assert torch.equal(wide.runs, kept)
    assert torch.allclose(wide.weight.gather(1, plain.chosen), plain.weight)


def test_prototypes_are_cosines_and_null_rows_have_an_expert_of_their_own():
    h = tokens(64)
    null = torch.tensor([True, False] * 4)
    route = router(Prototypes(2), 5)
    found = route(h, rows(h), LAYOUT._replace(null=null))
    cosines = F.normalize(h, dim=-1) @ F.normalize(route.prototypes, dim=-1).T
    free = null[rows(h)]
    assert bool((found.chosen[free] == 4).all()) and torch.equal(
        found.runs[free].sum(1), torch.ones(int(free.sum())).long()
    )
    assert torch.equal(found.weight[free, 0], torch.ones_like(found.weight[free, 0]))
    assert torch.allclose(found.weight[~free], cosines[~free].topk(2).values)
    with Rng(3).ambient():
        feed = Experts(5, Prototypes(2), shared=True).build(16, 32, 0.0).double()
    x = h.unflatten(0, (8, 8)).requires_grad_()
    for part in (null, ~null):
        feed.zero_grad()
        feed(x, LAYOUT._replace(null=null))[0][part].square().sum().backward()
        moved = feed.up.grad.flatten(1).abs().sum(1) > 0
        assert bool(moved[4]) == bool(part[0]) and bool(moved[:4].any()) == bool(part[1])


def test_a_network_tells_its_experts_which_rows_have_the_null():
    conditions = {"label": {"classes": 3}}
    net = DiT((1, 8, 8), width=16, depth=1, heads=2, conditions=conditions, feed=Experts(3, Prototypes(1)))
    x, t, y = torch.zeros(4, 1, 8, 8), torch.zeros(4), torch.tensor([0, 3, 2, 3])
    assert net.begun(x, t, y, None, Asked()).told[0][1].null.tolist() == [False, True, False, True]
    assert net.begun(x, t, None, None, Asked()).told[0][1].null.all()
    plain = DiT((1, 8, 8), width=16, depth=1, heads=2, conditions=conditions)
    assert plain.begun(x, t, y, None, Asked()).told[0][1].null is None
    both = {"label": {"classes": 3}, "text": {"length": 2, "size": 4}}
    net = DiT((1, 8, 8), width=16, depth=1, heads=2, conditions=both, feed=Experts(3, Prototypes(1)))
    text = torch.zeros(4, 2, 4)
    text[1, 0, 0] = 1
    assert net.begun(x, t, {"label": y, "text": text}, None, Asked()).told[0][1].null.tolist() == [
        False,
        False,
        False,
        True,
    ]
    assert DiT((1, 8, 8), width=16, depth=1, heads=2, feed=Experts(3, Prototypes(1)))(x, t).shape == x.shape


def test_the_contrast_finds_planted_clusters():
    """Four clusters of tokens go to one expert each with the term, and not without it."""
    with Rng(0).ambient():
        centres, at = F.normalize(torch.randn(4, 16), dim=-1), torch.randint(0, 4, (512,))
        h = centres[at] + 0.1 * torch.randn(512, 16)

    def purity(weight):
        with Rng(5).ambient():
            route = Prototypes(1).build(16, 5)
        adam = torch.optim.Adam(route.parameters(), 1e-2)
        for _ in range(200 if weight else 1):
            found = route(h, torch.arange(512) // 8, LAYOUT)
            adam.zero_grad()
            (weight * found.notes["contrast"]).backward()
            adam.step()
        table = torch.zeros(4, 5).index_put_(
            (at, route(h, torch.arange(512), LAYOUT).chosen[:, 0]), torch.ones(512), True
        )
        return float(table.max(0).values.sum() / 512)

    assert purity(1.0) > 0.95 > purity(0.0)


def test_positive_scores_do_not_depend_on_the_size_of_tokens():
    route, h = router(ReLURouter(chunk=4)), tokens(64)
    with torch.no_grad():
        route.gate.weight.mul_(10)
        route.gate.bias.zero_()  # rows near zero show the 1e-6 under the root
    found = route(h, rows(h), LAYOUT)
    r = torch.relu(h @ route.gate.weight.T)
    assert torch.allclose(found.weight, (r / r.square().mean(1, keepdim=True).sqrt()).nan_to_num(), atol=1e-3)
    assert torch.allclose(found.weight, route(7 * h, rows(h), LAYOUT).weight, atol=1e-3)
    assert torch.equal(found.runs, r > 0) and abs(float(found.notes["awake"]) - 0.5) < 0.06
    share = (r / r.sum(1, keepdim=True)).nan_to_num().unflatten(0, (-1, 4))
    assert torch.allclose(found.notes["chunk"], 1 - (1 - share).prod(1).mean(), atol=1e-6)
    pairs = [(i, i + 1) for i in range(63) if i % 8 != 7]
    z = 100 * h @ route.gate.weight.T
    wanted = [F.binary_cross_entropy_with_logits(z[j], torch.sigmoid(z[i])) for i, j in pairs]
    assert torch.allclose(found.notes["locality"], torch.stack(wanted).mean())


def test_experts_that_are_not_awake_are_not_computed():
    with Rng(0).ambient():
        feed = Experts(4, ReLURouter(), share=4).build(16, 32, 0.0).double()
    with torch.no_grad():
        feed.route.gate.weight.normal_(generator=torch.Generator().manual_seed(0))
        feed.route.gate.bias.zero_()
    h = tokens(64).unflatten(0, (8, 8))
    found = feed(h, LAYOUT)[0]
    weight = feed.route(h.flatten(0, 1), rows(h.flatten(0, 1)), LAYOUT).weight
    every = [F.gelu(h @ feed.up[e] + feed.first[e]) @ feed.down[e] + feed.second[e] for e in range(4)]
    wanted = sum(w[..., None] * y for w, y in zip(weight.unflatten(0, (8, 8)).unbind(-1), every, strict=True))
    assert torch.allclose(found, wanted, atol=1e-12)


def test_notes_of_routers_are_terms_of_a_loss():
    for spec, weights in ((Prototypes(1), {"contrast": 1.0}), (ReLURouter(), {"locality": 0.1, "chunk": 0.1})):
        with Rng(0).ambient():
            net = Network(DiT((1, 8, 8), width=16, depth=1, heads=2, feed=Experts(4, spec)))
        loss = Noted(weights=weights)(net, Batch(Rng(1).normal(torch.empty(4, 1, 8, 8))), Rng(2))
        loss.value.backward()
        assert all(bool(p.grad.abs().sum() > 0) for p in net.backbone.block[0].mlp.route.parameters())
        assert set(weights) <= set(loss.terms)
    with collected_notes() as seen:
        net(torch.zeros(2, 1, 8, 8), torch.zeros(2))
    assert {"block.0.awake", "block.0.awake_chunk"} <= set(seen[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BiasBalanced(3).build(8, 2), "1 to 2"),
        (lambda: Prototypes(2).build(8, 2), "1 to 1"),
        (lambda: Prototypes(1).build(8, 1), "2 or more"),
        (lambda: Rectify(Prototypes()), "other routers"),
        (lambda: BiasBalanced(rate=0.0), "above 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
