"""Elastic training: which parts a step evaluates, and with what they are compared."""

import pytest
import torch

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.networks.compressing.prune import Ordered
from beeline.networks.compressing.removal.search import SubnetworkSearch
from beeline.networks.dit import DiT
from beeline.networks.transformer.feeds import SwiGLU
from beeline.networks.transformer.plans.elastic import SubNetwork
from beeline.networks.transformer.plans.plan import Shared
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.matching import FlowMatching, ObjectiveBase
from beeline.objectives.subsets.draws import Listed, Nested, Sandwich, evenly
from beeline.objectives.subsets.elastic import Elastic
from tests.networks.compressing.test_smaller import X, applied, dit, error, probe

BATCH = Batch(Rng(3).normal(torch.empty(6, 1, 8, 8)))


def gradient(net, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)])


def test_the_draws_are_those_of_the_papers():
    whole, *between, smallest = Sandwich(3, 0.25, 0.5)(6, Rng(0))
    assert whole == Subset() and smallest == Subset(0.25, (0, 2, 5)) and len({*between}) == 3
    assert [evenly(5, s) for s in (0.0, 0.4, 1.0)] == [(0,), (0, 4), (0, 1, 2, 3, 4)]
    pairs = ((0.25, 0.5), (0.5, 1.0), (1.0, 1.0))
    every = Listed(pairs)(4, Rng(0))
    assert [p.width for p in every] == [0.25, 0.5, 1.0] and every[0].visits == (0, 3) and every[2].covers(4)
    single = [Listed(pairs, 1)(4, Rng(k)) for k in range(300)]
    assert all(len(p) == 1 for p in single) and all(80 < sum(p == [e] for p in single) < 120 for e in every)
    nested = [Nested((0.25, 1.0))(4, Rng(k))[0].feeds for k in range(200)]
    assert {*nested} == {(0.25,), (1.0,)} and 80 < nested.count((1.0,)) < 120
    apart = [Nested((0.25, 1.0), apart=True)(4, Rng(k))[0] for k in range(200)]
    assert len({p.feeds for p in apart}) == 16 and sum(p.covers(4) for p in apart) < 30


def test_the_loss_of_a_step_is_the_mean_of_those_of_its_parts():
    net, rng, draws = dit().requires_grad_(True), Rng(1), Listed(((0.5, 0.5), (1.0, 1.0)))
    loss = Elastic(draws=draws, own=0.5)(net, BATCH, rng)
    parts = [FlowMatching()(SubNetwork(net, p.width, p.visits), BATCH, rng) for p in draws(2, rng)]
    assert torch.allclose(loss.value, (0.5 * parts[0].value + parts[1].value) / 2)
    assert torch.allclose(loss.per_sample, (0.5 * parts[0].per_sample + parts[1].per_sample) / 2)
    assert loss.terms["loss"] == loss.value and torch.equal(loss.t, parts[0].t)


@pytest.mark.parametrize("own", [0.0, 1.0])
@pytest.mark.parametrize("pairs", [((0.5, 1.0), (1.0, 1.0)), ((0.5, 1.0), (0.25, 0.5))])
def test_parts_follow_the_whole_which_does_not_follow_them(own, pairs):
    net, rng = dit().requires_grad_(True), Rng(1)
    loss = Elastic(draws=Listed(pairs), own=own, distilled=2.0)(net, BATCH, rng)
    example = FlowMatching().examples(BATCH, rng)
    target, wanted = net(example.x, example.t).detach(), 0.0
    for width, depth in pairs:
        v = SubNetwork(net, width, evenly(2, depth))(example.x, example.t)
        error, near = ((v - to).square().flatten(1).mean(1).mean() for to in (example.v, target))
        wanted = wanted + (error if (width, depth) == (1.0, 1.0) else own * error + 2 * near) / 2
    assert torch.allclose(loss.value, wanted, rtol=1e-5)
    assert torch.allclose(gradient(net, loss.value), gradient(net, wanted), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(Elastic(draws=Listed(pairs), own=own, distilled=2.0)(net, BATCH, rng).value, wanted)


class Own(ObjectiveBase):
    """No flow matching."""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Elastic(own=0.0), "own=0 and distilled=0"),
        (lambda: Elastic(objective=Own(), distilled=1.0)(dit(), BATCH, Rng(0)), "give FlowMatching"),
        (lambda: Listed(()), "at least one part"),
        (lambda: Listed(((1.0, 1.0),), 2), "count=2 of 1 parts"),
        (lambda: Nested(()), "got no widths"),
        (lambda: Nested((0.0,)), "widths"),
    ],
)
def test_what_trains_nothing_is_refused(call, message):
    with pytest.raises(BeelineError, match=message):
        call()


@pytest.mark.parametrize("slots", [{}, {"feed": SwiGLU()}], ids=repr)
def test_an_ordered_network_is_the_same_and_its_parts_are_nearer(slots):
    net = dit(**slots)
    for block in net.block:
        last = block.mlp.down if slots else block.mlp[3]
        last.weight[:, ::2] *= 0.01
        block.mix.out.weight[:, :16] *= 0.01
    method = Ordered()
    made = method.apply(net, method.plan(net, probe()), probe(), Rng(0))
    assert type(made) is DiT and error(made, net) < 1e-6
    assert config.build(config.describe(method)) == method
    before, after = (error(SubNetwork(n, 0.5), net) for n in (net, made))
    assert after < 0.2 * before


def test_a_search_chooses_the_feeds_of_blocks():
    """A quarter of the feed of the first block does all."""
    net = dit()
    net.block[0].mlp[3].weight[:, 32:] = 0
    method = SubnetworkSearch(0.9, measured=False, widths=(1.0,), feeds=(1.0, 0.25))
    made = applied(method, net)
    assert method.plan(net, probe()).decisions["feeds"] == (0.25, 1.0) and error(made, net) < 1e-6
    assert made(X, torch.zeros(3)).shape == X.shape


def test_a_search_gives_one_feed_to_all_visits_of_a_block():
    net = dit(plan=Shared(2))
    method = SubnetworkSearch(0.95, measured=False, widths=(1.0,), feeds=(1.0, 0.5), population=16, generations=2)
    decisions = method.plan(net, probe()).decisions
    assert decisions["cost"] <= 0.95 and all(decisions["feeds"][k] == decisions["feeds"][k + 1] for k in (0, 2))
