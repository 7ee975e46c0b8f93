"""Where pairs of students come from: online, mixed with real data; presets, and rounds towards optimal transport."""

import math

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.sources import Gaussian
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.feeds import Mixed, OnlinePairs, WithNoise
from beeline.distillation.finetune import PeRFlow
from beeline.distillation.fit_solver import Problem
from beeline.distillation.fit_steps import Bellman
from beeline.distillation.pairs import AnnealedPairs, reflow_pairs
from beeline.distillation.presets import BellmanReflow, ImprovedReflow
from beeline.distillation.students import OneStep, Reflow
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.losses.basic import Huber
from beeline.objectives.losses.distances import Bregman, Combined, PowerCost
from beeline.objectives.second_order import Potential
from beeline.paths.affine import Cosine
from beeline.sampling.guidance.guide import CFG, Plain
from beeline.sampling.guidance.stepwise.anchored import AnchoredNull
from beeline.sampling.sampler import Sampler
from beeline.solvers.multistep import KeepNoise
from beeline.solvers.runge_kutta import EULER
from beeline.times.samplers import UShaped
from beeline.training.config import Training
from beeline.training.feed.microbatches import InMemory
from beeline.training.fit import fit
from tests.distillation.test_students import LIKE, Straight

DATA = Batch(torch.arange(20.0, dtype=torch.float64).reshape(10, 2), cond={"side": torch.ones(10, dtype=torch.float64)})


def test_pairs_of_the_moment_are_those_of_reflow_pairs_and_never_repeat():
    teacher = Flow(Straight())
    feed = OnlinePairs(teacher, Sampler(2), InMemory(DATA, Rng(1)), Rng(0))
    wanted = reflow_pairs(teacher, Sampler(2), {"side": torch.ones(12, dtype=torch.float64)}, Rng(0), like=LIKE)
    found = [feed.microbatch(n, 4) for n in range(3)]
    assert torch.equal(torch.cat([b.x0 for b in found]), wanted.x0)
    assert torch.allclose(torch.cat([b.x1 for b in found]), wanted.x1, atol=1e-14)
    assert torch.equal(feed.microbatch(2, 4).x1, found[2].x1) and feed.sequential
    assert found[0].cond["side"].shape == (4,) and feed.identity["online"] == [0]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.77, 0.99])
def test_a_mixture_has_its_share_exactly_and_keeps_epochs(share):
    parts = [InMemory(Batch(torch.arange(n)[:, None] + float(k) * 1000), Rng(k)) for k, n in ((0, 30), (1, 50))]
    feed = Mixed(*parts, share)
    rows = [feed.microbatch(n, 10).x1[:, 0] for n in range(60)]
    assert all(len(row) == 10 for row in rows)
    taken = torch.cat(rows)
    assert int((taken >= 1000).sum()) == math.floor(600 * share + 1e-9)
    counts = taken[taken < 1000].long().bincount(minlength=30)
    even = 10 * share == int(10 * share)
    assert counts.max() - counts.min() <= (1 if even else 8)
    with pytest.raises(BeelineError, match="keeps a part"):
        Mixed(*parts, 1.0)


def test_real_data_with_noise_are_independent_pairs():
    feed = WithNoise(InMemory(Batch(DATA.x1, weight=torch.ones(10)), Rng(0)), Gaussian(), Rng(1))
    first, again, other = feed.microbatch(0, 10), feed.microbatch(0, 10), feed.microbatch(1, 10)
    assert torch.equal(first.x0, again.x0) and not torch.equal(first.x0, other.x0) and first.weight is None
    assert torch.equal(first.x1.sort(0).values, DATA.x1)


def test_a_method_mixes_pairs_inverted_data_and_noised_data():
    teacher = Flow(Straight())
    method = Reflow(Sampler(2), real=0.25, online=True, reverse=0.5)
    pairs = method.data(teacher, DATA, Rng(0))
    assert len(pairs.x1) == 10
    feed = method.supply(teacher, pairs, DATA, Rng(0))
    batch = feed.microbatch(0, 16)
    real = [bool((DATA.x1 == x).all(1).any()) for x in batch.x1]
    assert sum(real[12:]) == 4 and sum(real[6:12]) == 6 and sum(real[:6]) == 0
    paired = (batch.x1 - (3 * batch.x0 + 2)).abs().amax(1)
    assert paired[:12].max() < 1e-6 and paired[12:].min() > 1e-3
    plain = Reflow(Sampler(2))
    assert plain.supply(teacher, pairs, DATA, Rng(0)) is pairs
    mixed = Reflow(Sampler(2), anneal=4, real=0.5).supply(teacher, pairs, DATA, Rng(0))
    assert isinstance(mixed.first.data, AnnealedPairs)


def test_guidance_without_conditions_is_refused():
    with Rng(0).ambient():
        teacher = Flow(Network(MLP(2, width=8, depth=1)))
    batch = Batch(torch.zeros(4, 2))
    for method in (Reflow(Sampler(2, guidance=CFG(2.0))), OneStep(Sampler(2, guidance=CFG(2.0)))):
        with pytest.raises(BeelineError, match="nothing to be guided by"):
            method.fitted(teacher, batch, Rng(0))
    assert Reflow().fitted(teacher, batch, Rng(0)) == Reflow()


def test_the_improved_recipe():
    method = ImprovedReflow()
    assert method.times == UShaped(4.0) and method.distance == Huber(0.00054) and method.solver == KeepNoise()
    assert method.steps == 1 and method.for_evaluations(2).steps == 2
    assert isinstance(ImprovedReflow(features=torch.nn.Identity()).distance, Combined)
    assert ImprovedReflow(Sampler(3), reverse=0.5).reverse == 0.5
    teacher = Flow(Straight())
    x0 = Rng(0).normal(LIKE.new_empty(5, 2))
    flow, sampler = ImprovedReflow(steps=3).student(teacher, ImprovedReflow().networks(teacher))
    assert torch.allclose(sampler(flow, x0), 3 * x0 + 2)


def test_windows_end_where_the_fit_puts_them_for_the_teacher():
    ring = GaussianMixture.ring()

    class Exact(Straight):
        def forward(self, x, t, cond=None):
            return ring.field()(x, t) + 0 * self.scale

    teacher, batch = Flow(Exact()), ring.batch(200, Rng(0), dtype=torch.float64)
    method = BellmanReflow(4, fine=12)
    assert method.fit == Bellman(12) and method.student(teacher, {"student": teacher.field})[1].steps == 4
    found = method.fitted(teacher, batch, Rng(0))
    assert found.fit is None and found.schedule == method.fitted(teacher, batch, Rng(0)).schedule
    x0 = Rng(0).normal(torch.empty(128, 2, dtype=torch.float64))
    wanted, _ = Bellman(12)(Problem(teacher, Plain(), x0, Sampler(50)(teacher, x0)), 4, Rng(0))
    assert torch.allclose(wanted(4), found.schedule(4), atol=0.1)
    assert torch.equal(found.student(teacher, {"student": teacher.field})[1].times(), found.schedule(4))
    assert PeRFlow().fitted(teacher, batch, Rng(0)) == PeRFlow()
    example = found.objective(teacher).examples(batch, Rng(0))
    assert set(example.t.tolist()) <= set(found.schedule(4).tolist())  # the nodes of the grid alone


def test_rounds_with_a_cost_are_of_gradient_fields():
    with Rng(0).ambient():
        teacher = Flow(Network(MLP(2, width=16, depth=1)))
    method = Reflow(cost=PowerCost(2.0))
    student = method.networks(teacher)["student"]
    assert isinstance(student, Potential) and method.objective(teacher).distance == Bregman(PowerCost(2.0))
    again = method.next_round().networks(Flow(student))["student"]
    assert isinstance(again, Potential) and not isinstance(again.network, Potential)
    with pytest.raises(BeelineError, match="straight path only"):
        method.objective(Flow(Straight(), Cosine()))
    with pytest.raises(BeelineError, match="distance of the cost"):
        Reflow(cost=PowerCost(2.0), distance=Huber()).objective(teacher)


@pytest.mark.slow
def test_a_cost_of_rotated_data_falls_where_that_of_a_free_field_stays():
    """x1 = D R x0 with a rotation R: E|x1 - x0|^2 = 4.4, of which 1.25 is optimal."""
    x0 = Rng(0).normal(torch.empty(4096, 2))
    turn = torch.tensor([[math.cos(1.2), -math.sin(1.2)], [math.sin(1.2), math.cos(1.2)]])
    pairs, found = Batch(x0 @ turn.T * torch.tensor([2.0, 0.5]), x0), {}
    for method in (Reflow(), Reflow(cost=PowerCost(2.0))):
        with Rng(1).ambient():
            teacher = Flow(Network(MLP(2, width=64, depth=2)))
        net = method.networks(teacher)["student"]
        fit(net, method.objective(teacher), pairs, Training(400, 256), log=lambda e: None)
        ends = Sampler(10)(Flow(net), x0)
        found[method.cost] = float((ends - x0).square().sum(1).mean())
    free, bound = found.values()
    assert free > 3.5 and bound < 1.6


def test_anchored_guidance_is_folded_into_pairs():
    """Embeddings as conditions, whose null is tuned; the pairs are those of the same sampler alone."""
    with Rng(0).ambient():
        net = Network(MLP(2, width=8, depth=1, conditions={"text": {"size": 3}}))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p += 0.3 * Rng(1).fork(i).normal(p)
    teacher = Flow(net, null={"text": [0.0, 0.0, 0.0]})
    sampler = Sampler(4, solver=EULER, guidance=AnchoredNull(3.0, rounds=2))
    batch = Batch(torch.zeros(6, 2), cond={"text": Rng(2).normal(torch.empty(6, 3))})
    method = Reflow(sampler).fitted(teacher, batch, Rng(0))
    pairs = method.data(teacher, batch, Rng(0))
    assert torch.allclose(sampler(teacher, pairs.x0, pairs.cond), pairs.x1, atol=1e-5)
    plain = Sampler(4, solver=EULER)(teacher, pairs.x0, pairs.cond)
    scaled = Sampler(4, solver=EULER, guidance=CFG(3.0))(teacher, pairs.x0, pairs.cond)
    assert 0 < (pairs.x1 - plain).norm() < (scaled - plain).norm()  # tuned towards the trajectory without guidance
    assert method.student(teacher, method.networks(teacher))[1].guidance == Plain()
