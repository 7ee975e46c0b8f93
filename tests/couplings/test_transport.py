"""Batch couplings: marginals, optimality, limits, conditions."""

import itertools

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Independent, MinibatchOT, squared_cost
from beeline.couplings.transport import ConditionalOT, Immiscible, Sinkhorn, StableMatching, Unbalanced, assign_dataset
from beeline.data.distributions.mixtures import GaussianMixture

RING = GaussianMixture([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0], [0.0, -4.0]], 0.3)


def pair(n, d=2, seed=0):
    like = torch.empty(n, d, dtype=torch.float64)
    return Batch(Rng(seed).normal(like) * 2 + 1, x0=Rng(seed + 1).normal(like))


def cost(batch):
    return float((batch.x0 - batch.x1).square().sum(1).mean())


PERMUTING = [MinibatchOT(), StableMatching(), Immiscible()]


@pytest.mark.parametrize("coupling", PERMUTING, ids=lambda c: type(c).__name__)
def test_every_source_and_datum_is_used_once_and_data_keep_their_order(coupling):
    batch = pair(40)
    got = coupling(batch, Rng(0))
    assert torch.equal(got.x1, batch.x1)
    assert torch.equal(got.x0.sort(0).values, batch.x0.sort(0).values)
    assert not coupling.independent
    samples = coupling(Batch(batch.x1), Rng(0)).x0
    assert torch.equal(samples, coupling(Batch(batch.x1), Rng(0)).x0)


def test_assignments_are_optimal_over_all_permutations():
    batch = pair(6)
    c = squared_cost(batch.x0, batch.x1)
    best = lambda m: min(sum(float(m[p[i], i]) for i in range(6)) for p in itertools.permutations(range(6)))  # noqa: E731
    got = MinibatchOT()(batch, Rng(0)).x0
    assert abs(float((got - batch.x1).square().sum()) - best(c)) < 1e-9
    got = Immiscible()(batch, Rng(0)).x0
    assert abs(float((got - batch.x1).norm(dim=1).sum()) - best(c.sqrt())) < 1e-9


def test_stable_matching_has_no_blocking_pair():
    batch = pair(30)
    got = StableMatching()(batch, Rng(0)).x0
    c = squared_cost(got, batch.x1)
    own = c.diagonal()
    blocking = (c < own[:, None] - 1e-12) & (c < own[None] - 1e-12)
    assert not bool(blocking.any())
    assert cost(MinibatchOT()(batch, Rng(0))) <= cost(StableMatching()(batch, Rng(0))) < cost(batch)


def test_sinkhorn_plan_has_uniform_marginals_and_the_right_limits():
    batch = pair(24)
    c = squared_cost(batch.x0, batch.x1)
    plan = Sinkhorn(epsilon=0.1, iterations=500).plan(c)
    even = torch.full((24,), 1 / 24, dtype=torch.float64)
    assert torch.allclose(plan.sum(0), even, atol=1e-9) and torch.allclose(plan.sum(1), even, atol=1e-6)
    # the stationarity of the entropic problem: log P + C/eps is a sum of a row and a column term
    excess = plan.log() + c / (0.1 * c.mean())
    mixed = excess - excess[:1] - excess[:, :1] + excess[:1, :1]
    assert float(mixed.abs().max()) < 1e-8
    assert torch.allclose(Sinkhorn(epsilon=1e6).plan(c), torch.full_like(c, 1 / 24**2), atol=1e-6)
    sharp = Sinkhorn(epsilon=1e-3, iterations=3000)(batch, Rng(0))
    assert abs(cost(sharp) / cost(MinibatchOT()(batch, Rng(0))) - 1) < 0.02


def test_sinkhorn_cost_lies_between_independent_and_optimal():
    batch = Batch(RING.sample(256, Rng(0)), x0=Rng(1).normal(torch.empty(256, 2)))
    costs = [cost(Sinkhorn(epsilon=e)(batch, Rng(2))) for e in (0.01, 0.1, 1.0, 100.0)]
    assert cost(MinibatchOT()(batch, Rng(0))) < costs[0] * 1.001
    assert costs == sorted(costs)
    assert abs(costs[-1] / cost(Independent()(Batch(batch.x1), Rng(3))) - 1) < 0.15


def test_the_source_marginal_stays_the_source():
    samples = torch.cat([Sinkhorn()(Batch(RING.sample(64, Rng(i))), Rng(i)).x0 for i in range(200)])
    assert float(samples.mean(0).abs().max()) < 0.03
    assert torch.allclose(samples.T @ samples / len(samples), torch.eye(2), atol=0.04)


def test_unbalanced_downweights_outliers_and_becomes_sinkhorn():
    batch = pair(20)
    c = squared_cost(batch.x0, batch.x1)
    assert torch.allclose(Unbalanced(reach=1e9, iterations=300).plan(c), Sinkhorn(iterations=300).plan(c), atol=1e-6)
    far = batch.x1.clone()
    far[0] = 100.0
    got = Unbalanced(reach=0.1)(Batch(far, x0=batch.x0), Rng(0))
    assert float(got.weight[0]) < 1e-3 < 0.5 < float(got.weight[1:].min())
    assert abs(float(got.weight.mean()) - 1) < 1e-6
    # stationarity: reach log(marginal / even) = -potential, seen through P = exp((f + g - C)/eps)
    u = Unbalanced(reach=0.5, iterations=2000)
    plan, mean = u.plan(c), float(c.mean())
    f = u.epsilon * mean * (plan.log() + c / (u.epsilon * mean))
    rows = -u.reach * mean * (plan.sum(1) * 20).log()
    cols = -u.reach * mean * (plan.sum(0) * 20).log()
    assert torch.allclose(f, rows[:, None] + cols[None], atol=1e-6)


def test_conditional_transport_goes_from_biased_to_within_classes():
    x1 = RING.sample(400, Rng(0))
    label = (x1[:, 0] > 0).long()
    batch = Batch(x1, x0=Rng(1).normal(x1), cond=label)

    def bias(got):
        return float((got.x0[label == 1].mean(0) - got.x0[label == 0].mean(0)).norm())

    assert bias(MinibatchOT(biased=True)(batch, Rng(2))) > 1.0
    assert torch.equal(ConditionalOT(strength=0.0)(batch, Rng(2)).x0, MinibatchOT(biased=True)(batch, Rng(2)).x0)
    aware = ConditionalOT(strength=1e4)(batch, Rng(2))
    assert bias(aware) < 0.25
    assert bias(MinibatchOT(by="")(batch, Rng(2))) < 0.25
    assert cost(aware) < 0.8 * cost(batch)
    soft = Batch(x1, x0=batch.x0, cond={"place": x1 / 4})
    assert cost(ConditionalOT(by="place", strength=10.0)(soft, Rng(2))) < cost(batch)


def test_remembered_assignment_is_fixed_over_epochs():
    x1 = RING.sample(300, Rng(0))
    kept = assign_dataset(x1, Rng(1), size=150)
    rows = torch.tensor([7, 250, 3])
    batch = Batch(x1[rows], cond={"index": rows, "label": torch.tensor([0, 1, 0])})
    first, again = kept(batch, Rng(2)), kept(batch, Rng(3))
    assert torch.equal(first.x0, again.x0) and set(first.cond) == {"label"}
    whole = kept(Batch(x1, cond={"index": torch.arange(300)}), Rng(0))
    assert whole.cond is None
    assert cost(whole) < 0.8 * cost(Independent()(Batch(x1), Rng(4)))
    assert float(kept.noise.std()) == pytest.approx(1.0, abs=0.1)
    with pytest.raises(BeelineError, match="needs the index of every datum"):
        kept(Batch(x1), Rng(0))
    with pytest.raises(BeelineError, match="computed for other data"):
        kept(Batch(x1[:1], cond={"index": torch.tensor([300])}), Rng(0))


FREE = [Sinkhorn(), Unbalanced(), StableMatching(), Immiscible()]


@pytest.mark.parametrize("coupling", FREE, ids=lambda c: type(c).__name__)
def test_biased_conditions_and_bad_costs_are_refused(coupling):
    x = torch.zeros(3, 1)
    with pytest.raises(BeelineError, match="depend on the condition"):
        coupling(Batch(x, cond=torch.tensor([0, 1, 2])), Rng(0))
    with pytest.raises(BeelineError, match="not finite"):
        coupling(Batch(torch.full((3, 1), float("nan"))), Rng(0))


def test_other_refusals():
    with pytest.raises(BeelineError, match="positive regularisation"):
        Sinkhorn(epsilon=0.0)
    with pytest.raises(BeelineError, match="above 0"):
        Unbalanced(reach=0.0)
    with pytest.raises(BeelineError, match="finite number from 0"):
        ConditionalOT(strength=-1.0)
    with pytest.raises(BeelineError, match="ConditionalOT got by"):
        ConditionalOT(by="label")(Batch(torch.zeros(2, 1)), Rng(0))
