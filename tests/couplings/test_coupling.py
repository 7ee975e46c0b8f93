"""Couplings keep the marginals and the order of the data; minibatch transport is a permutation of lower cost."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Independent, MinibatchOT, Paired, PairedOrOT, assign, solve_assignment
from beeline.couplings.sources import Empirical, Gaussian, Uniform
from beeline.couplings.transport import ConditionalOT

X1 = Rng(0).normal(torch.empty(64, 2)) + 3
LABEL = Rng(1).integers(3, 64)
BATCH = Batch(X1, cond={"label": LABEL}, weight=torch.rand(64, generator=Rng(2).generator()))


def cost(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().sum())


@pytest.mark.parametrize(
    "coupling", [Independent(), Independent(Uniform()), MinibatchOT(biased=True), MinibatchOT(by="label")]
)
def test_data_conditions_and_weights_keep_their_order(coupling: object) -> None:
    got = coupling(BATCH, Rng(3))
    assert got.x1 is X1 and got.cond is BATCH.cond and got.weight is BATCH.weight and got.x0.shape == X1.shape
    assert torch.equal(got.x0, coupling(BATCH, Rng(3)).x0)


def test_marginals() -> None:
    many = Batch(torch.zeros(20_000, 1))
    assert abs(float(Independent()(many, Rng(0)).x0.std()) - 1) < 0.02
    small = Independent()(BATCH, Rng(3)).x0
    given = Batch(X1, x0=small)
    matched = MinibatchOT()(given, Rng(0)).x0
    order = (matched[:, None] == small[None]).all(2).long().argmax(1)
    assert torch.equal(order.sort().values, torch.arange(64))  # every source point is used once
    assert cost(matched, X1) < cost(small, X1)


def test_assignment_is_optimal() -> None:
    import itertools

    a, b = Rng(0).normal(torch.empty(6, 2)), Rng(1).normal(torch.empty(6, 2))
    best = min(cost(a[list(p)], b) for p in itertools.permutations(range(6)))
    assert cost(a[assign(a, b)], b) == pytest.approx(best, rel=1e-5)


def test_matching_within_labels() -> None:
    x0 = Independent()(BATCH, Rng(3)).x0
    got = MinibatchOT(by="label")(Batch(X1, x0=x0, cond=BATCH.cond), Rng(0)).x0
    for k in range(3):
        rows = LABEL == k
        assert torch.equal(got[rows].sort(0).values, x0[rows].sort(0).values)
        assert cost(got[rows], X1[rows]) <= cost(x0[rows], X1[rows])


def test_paired_or_ot_keeps_pairs_and_matches_within_labels() -> None:
    assert torch.equal(PairedOrOT()(BATCH, Rng(3)).x0, MinibatchOT(by="label")(BATCH, Rng(3)).x0)
    assert torch.equal(PairedOrOT()(Batch(X1), Rng(3)).x0, MinibatchOT()(Batch(X1), Rng(3)).x0)
    pairs = Batch(X1, x0=X1 + 1)
    assert PairedOrOT()(pairs, Rng(3)) is pairs and not PairedOrOT().independent
    with pytest.raises(ValueError, match="depend on the condition"):
        PairedOrOT()(Batch(X1, cond={"size": torch.ones(len(X1), 1)}), Rng(0))


def test_empirical_source_samples_its_rows() -> None:
    source = Empirical(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    got = source.sample(X1, Rng(0))
    assert set(got[:, 0].tolist()) == {1.0, 2.0} and bool((got[:, 0] == got[:, 1]).all())
    assert not source.gaussian and Gaussian().gaussian
    assert float(Gaussian().log_prob(torch.zeros(1, 2))) == pytest.approx(-1.837877)
    assert Uniform(0.0, 4.0).log_prob(torch.tensor([[1.0, 2.0], [5.0, 0.0]])).tolist() == [
        pytest.approx(-2.7725887),
        -torch.inf,
    ]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="a batch without x0"):
        Paired()(Batch(X1), Rng(0))
    with pytest.raises(ValueError, match="depend on the condition"):
        MinibatchOT()(BATCH, Rng(0))
    with pytest.raises(ValueError, match="got by='lable'"):
        MinibatchOT(by="lable")(BATCH, Rng(0))
    with pytest.raises(ValueError, match="not finite"):
        MinibatchOT()(Batch(X1 / 0), Rng(0))
    with pytest.raises(ValueError, match="pass equal numbers"):
        assign(X1, X1[:3])
    with pytest.raises(ValueError, match="must have the same shape"):
        assign(X1, X1[:, :1])
    with pytest.raises(ValueError, match="the interval is empty"):
        Uniform(1.0, 0.0)
    with pytest.raises(ValueError, match="got no rows"):
        Empirical(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="both ends of a flow must have one shape"):
        Empirical(torch.zeros(2, 3)).sample(X1, Rng(0))
    with pytest.raises(ValueError, match="a finite set of points has no density"):
        Empirical(torch.zeros(2, 2)).log_prob(X1)


def test_transport_within_equal_values_needs_classes_and_finite_costs():
    batch = Batch(X1, cond={"place": torch.linspace(0, 1, len(X1))})
    with pytest.raises(BeelineError, match="'place', a continuous condition.*ConditionalOT"):
        MinibatchOT(by="place")(batch, Rng(0))
    with pytest.raises(BeelineError, match="2 of 4 costs of the assignment are not finite"):
        solve_assignment(torch.tensor([[0.0, torch.nan], [torch.inf, 1.0]]))
    with pytest.raises(BeelineError, match="finite number from 0"):
        ConditionalOT(by="place", strength=torch.inf)
