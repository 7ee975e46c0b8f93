"""Objectives beside the identities: kernels, ends at the data, students with one time, learned noise, seams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import beeline as bl
from beeline.core.declared import as_map
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Paired
from beeline.objectives.maps.consistency import Consistency
from beeline.objectives.maps.identities import Stepped, Truncated
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.moments import InductiveMoments, discrepancy
from beeline.objectives.maps.spans import Ordered, ToEnd
from beeline.objectives.maps.splits import Between
from beeline.objectives.maps.trajectory import TrajectoryConsistency
from beeline.objectives.maps.transport import MarginalTransport
from beeline.objectives.maps.velocities import OfTeacher
from beeline.objectives.second_order import EncodedSource, Helped
from beeline.solvers.consistency import ConsistencyStep
from beeline.solvers.runge_kutta import RK4
from beeline.testing.components import check_objective
from tests.objectives.maps.exact_maps import GAUSSIAN, NudgedMap, data, gaussian_average
from tests.objectives.maps.test_matching import small_map

OF_GAUSSIAN = OfTeacher(bl.Flow(GAUSSIAN.field()))


def test_the_discrepancy_of_equal_sets_is_zero_and_of_two_points_known() -> None:
    y = Rng(0).normal(torch.empty(3, 4, 2, dtype=torch.float64))
    one = torch.ones(3, 1, 1, dtype=torch.float64)
    assert float(discrepancy(y, y, one).sum(1).abs().max()) < 1e-12
    assert float(discrepancy(y, y[:, [1, 0, 3, 2]], one).sum(1).abs().max()) < 1e-12  # sets have no order
    a, b = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)
    assert float(discrepancy(a, b, torch.ones(1, 1, 1))) == pytest.approx(2 - 2 * 2.718281828**-2)


def test_particles_of_a_group_share_their_times_and_the_second_jump_has_no_gradient() -> None:
    objective = InductiveMoments(group=3)
    t, r, s = objective.starts(100, torch.empty(0), Rng(0))
    assert bool((t < r).all()) and bool((r <= s + 1e-6).all()) and bool((s <= 1).all())
    net = small_map(dtype=torch.float32)
    loss = objective(net, Batch(torch.randn(8, 2)), Rng(0))
    assert loss.t[:3].unique().numel() == 1 and loss.per_sample.shape == (8,)
    check_objective(objective, net, Batch(torch.randn(8, 2)))


def test_the_exact_map_of_one_noise_level_has_no_discrepancy() -> None:
    """With the same end time from both starts, the exact conditional map of a single datum gives equal particles."""
    point = as_map(lambda x, t, cond=None, s=None: (1.0 - x) / (1 - t)[:, None])  # all data are at 1
    loss = InductiveMoments()(point, Batch(torch.ones(16, 2)), Rng(0))
    assert float(loss.value) < 1e-4
    other = as_map(lambda x, t, cond=None, s=None: (1.0 - x) / (1 - t)[:, None] + 3 * t[:, None])
    assert float(InductiveMoments()(other, Batch(torch.ones(16, 2)), Rng(0)).value) > 10 * float(loss.value)


def test_trajectory_consistency_has_no_error_at_the_exact_map_and_a_gradient_through_the_last_jump() -> None:
    inner = FlowMapMatching(identity=Stepped(Between(0.2, 0.2), RK4), velocity=OF_GAUSSIAN, spans=Ordered())
    objective, net = TrajectoryConsistency(inner), NudgedMap()
    loss = objective(net, data(64, Rng(0), GAUSSIAN), Rng(1))
    assert float(loss.terms["data end"]) < 1e-8
    learned = small_map()
    batch = data(16, Rng(0), GAUSSIAN)
    alone = TrajectoryConsistency(replace(inner), strength=0.0)(learned, batch, Rng(1))
    both = objective(learned, batch, Rng(1))
    weight = learned.backbone.out.weight
    slopes = [torch.autograd.grad(loss.value, weight)[0] for loss in (alone, both)]
    assert not torch.allclose(*slopes) and torch.isfinite(slopes[1]).all()


def test_marginal_transport_has_no_error_at_the_exact_average_velocity() -> None:
    teacher = bl.Flow(GAUSSIAN.field())
    exact = lambda x, t, cond=None: gaussian_average(x, t, torch.ones_like(t))  # noqa: E731
    objective = MarginalTransport(teacher)
    batch = data(64, Rng(0), GAUSSIAN)
    loss = objective(exact, batch, Rng(1))
    assert float(loss.value) < 1e-10
    wrong = lambda x, t, cond=None: exact(x, t) + 0.3  # noqa: E731
    assert float(objective(wrong, batch, Rng(1)).terms["velocity distillation"]) > 0.01
    with pytest.raises(ValueError, match="its student has one time"):
        objective(small_map(), batch, Rng(0))
    with pytest.raises(ValueError, match="convert the teacher"):
        MarginalTransport(bl.Flow(None, bl.paths.Cosine()))


def test_velocity_distillation_moves_samples_against_their_own_error() -> None:
    """The gradient of U(z, 0) is 2 (U - R) at the noised sample."""
    teacher = bl.Flow(lambda x, t, cond=None: 0 * x)
    by = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    student = lambda x, t, cond=None: by * torch.ones_like(x)  # noqa: E731
    batch = Batch(torch.zeros(32, 2, dtype=torch.float64))
    both, alone = (MarginalTransport(teacher, strength)(student, batch, Rng(0)) for strength in (1.0, 0.0))
    grads = [float(torch.autograd.grad(loss.value, by)[0]) for loss in (both, alone)]
    assert grads[1] == pytest.approx(2 * 0.5) and grads[0] - grads[1] == pytest.approx(2 * 0.5)


def test_a_trained_map_is_the_target_from_the_seam_on() -> None:
    trained = as_map(lambda x, t, cond=None, s=None: gaussian_average(x, t, s))
    spans = ToEnd(most=0.5)
    objective = FlowMapMatching(
        identity=Truncated(trained, 0.5, 0.5, Stepped(Between(0.05, 0.05), RK4)), velocity=OF_GAUSSIAN, spans=spans
    )
    made = objective.examples(NudgedMap(), data(64, Rng(0), GAUSSIAN), Rng(1))
    assert float((made.predicted - made.target).abs().max().detach()) < 5e-3
    bad = replace(objective.identity, trained=as_map(lambda x, t, cond=None, s=None: 0 * x))
    made = replace(objective, identity=bad).examples(NudgedMap(), data(64, Rng(0), GAUSSIAN), Rng(1))
    wrong = (made.predicted - made.target).abs().amax(1).detach() > 0.05
    assert 0.2 < float(wrong.double().mean()) < 0.9


def test_consistency_with_a_learned_noise_and_its_sampler() -> None:
    """Variational noise coupling: the encoder gets a gradient, and samples in two steps are encoded in between."""
    encoder = torch.nn.Linear(2, 4)
    net = Helped(small_map(dtype=torch.float32), torch.nn.Sequential(encoder, torch.nn.Unflatten(1, (2, 2))))
    objective = EncodedSource(Consistency(coupling=Paired()), strength=0.0)
    loss = objective(net, Batch(torch.randn(16, 2)), Rng(0))
    (slope,) = torch.autograd.grad(loss.value, encoder.weight)
    assert bool(slope.any()) and objective.spec.span
    still = lambda x1: torch.stack([torch.full_like(x1, 3.0), torch.full_like(x1, -30.0)], 1)  # noqa: E731
    seen: list[torch.Tensor] = []
    to_one = as_map(lambda x, t, cond=None, s=None: record(seen, x) * 0 + (1 - x) / (1 - t)[:, None])
    made = bl.Sampler(2, solver=ConsistencyStep(encoder=still))(bl.Flow(to_one), torch.zeros(4, 2))
    assert torch.allclose(made, torch.ones(4, 2)) and torch.allclose(seen[-1], torch.full((4, 2), 0.5 + 1.5))
    with pytest.raises(ValueError, match="samples x0 itself"):
        EncodedSource(Consistency())


def record(seen: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    seen.append(x)
    return x


def test_consistency_steps_are_exact_in_distribution_and_seeded() -> None:
    exact: Any = as_map(lambda x, t, cond=None, s=None: gaussian_average(x, t, s))
    x0 = Rng(0).normal(torch.empty(20000, 2, dtype=torch.float64))
    made = bl.Sampler(4, solver=ConsistencyStep())(bl.Flow(exact), x0)
    assert torch.allclose(made.mean(0), torch.tensor([1.0, -0.5]).double(), atol=0.02)
    assert torch.allclose(made.std(0), torch.full((2,), 0.4).double(), atol=0.02)
    flow, sampler = bl.Flow(exact), bl.Sampler(3, solver=ConsistencyStep())
    pair, alone = (sampler.seeded(seeds, 0)(flow, x0[: len(seeds)]) for seeds in ([7, 2], [7]))
    assert torch.allclose(pair[:1], alone)
    with pytest.raises(ValueError, match="it jumps to the data in one evaluation"):
        bl.Sampler(2, solver=ConsistencyStep())(bl.Flow(lambda x, t: x), x0[:2])
    with pytest.raises(ValueError, match="towards the data only"):
        sampler.invert(flow, x0[:2])
