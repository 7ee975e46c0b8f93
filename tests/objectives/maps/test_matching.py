"""Flow-map objectives: at the exact map every identity has no error, for jumps in both directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import beeline as bl
from beeline.core.declared import as_map
from beeline.core.progress import at_progress
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import MapNetwork
from beeline.networks.mlp import MLP
from beeline.objectives.losses.residuals import AdaptivePower, NormalisedTangent
from beeline.objectives.maps.derivatives import FiniteDifference
from beeline.objectives.maps.identities import Eulerian, Lagrangian, Semigroup, Stepped
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.spans import Dyadic, FromNoise, FromStarts, Gapped, Ordered, ToEnd
from beeline.objectives.maps.splits import Between, Falling, NoiseRatio, SigmoidFalling
from beeline.objectives.maps.velocities import GuidedTarget, OfPair, OfTeacher, OwnDiagonal
from beeline.solvers.runge_kutta import RK4
from beeline.testing.components import check_objective
from tests.objectives.maps.exact_maps import EXACT, FLOW, GAUSSIAN, NudgedMap, data

TRUE, OF_GAUSSIAN = OfTeacher(FLOW), OfTeacher(bl.Flow(GAUSSIAN.field()))
IDENTITIES = [
    Eulerian(),
    Eulerian(tangent=OwnDiagonal()),
    Lagrangian(),
    Lagrangian(through=True),
    Lagrangian(terminal=OwnDiagonal()),
    Semigroup(Between(0.2, 0.8)),
    Stepped(Between(0.2, 0.2), RK4),
]


@pytest.mark.parametrize("backward", [0.0, 1.0])
@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda i: type(i).__name__)
def test_the_exact_map_has_no_error(identity: Any, backward: float) -> None:
    objective = FlowMapMatching(identity=identity, velocity=TRUE, spans=Ordered(diagonal=0.25, backward=backward))
    batch = objective_batch(32)
    jumps, diagonal = objective.jumps(EXACT, batch, Rng(3))
    assert diagonal in (8, 9) and bool(((jumps.s > jumps.t) == (backward == 0))[diagonal:].all())
    predicted, u = objective.identity.predict(jumps)
    error = (predicted - objective.target(jumps, u.detach(), diagonal)).abs().max()
    assert float(error) < (2e-3 if isinstance(identity, Stepped) else 5e-4)


def objective_batch(n: int) -> Batch:
    batch = data(n, Rng(1))
    return replace(batch, x0=Rng(2).normal(batch.x1))


@pytest.mark.parametrize("backward", [0.0, 1.0])
@pytest.mark.parametrize("identity", [*IDENTITIES[:-1], Stepped(Between(0.01, 0.01), RK4)])
def test_the_gradient_vanishes_at_the_exact_map_and_not_beside_it(identity: Any, backward: float) -> None:
    objective = FlowMapMatching(identity=identity, velocity=OF_GAUSSIAN, spans=Ordered(backward=backward))
    net = NudgedMap()
    gradients = []
    for by in (0.0, 0.3):
        with torch.no_grad():
            net.by.fill_(by)
        loss = objective(net, data(256, Rng(5), GAUSSIAN), Rng(6))
        gradients.append(float(torch.autograd.grad(loss.value, net.by)[0].abs().max()))
    assert gradients[0] < 1e-6 and gradients[1] > 0.05


@pytest.mark.parametrize("identity", [Eulerian(), Eulerian(OwnDiagonal()), Lagrangian(OwnDiagonal(), through=True)])
def test_with_velocities_of_pairs_the_mean_gradient_vanishes(identity: Any) -> None:
    """Targets have the variance of pairs, and the exact average velocity as their mean."""
    objective, net = FlowMapMatching(identity=identity), NudgedMap()

    def gradient(i: int) -> torch.Tensor:
        loss = objective(net, data(4000, Rng(i), GAUSSIAN), Rng(9).fork(i))
        return torch.autograd.grad(loss.value, net.by)[0]

    found = torch.stack([gradient(i) for i in range(24)])
    assert float((found.mean(0) / (found.std(0) / 24**0.5)).abs().max()) < 4.5
    with torch.no_grad():
        net.by += 0.3
    assert float(gradient(0).abs().max()) > 10 * float(found.std(0).max()) / 24**0.5


def test_a_small_step_is_the_eulerian_identity_and_a_whole_one_flow_matching() -> None:
    net, batch = small_map(), objective_batch(32)
    spans = Ordered(diagonal=0.0)
    find = lambda identity: targets(FlowMapMatching(identity=identity, velocity=TRUE, spans=spans), net, batch)  # noqa: E731
    exact = find(Eulerian())
    assert torch.allclose(find(Stepped(Between(1e-5, 1e-5))), exact, atol=1e-3)
    whole = targets(FlowMapMatching(identity=Stepped(Between(1, 1)), spans=spans), net, batch)
    assert batch.x0 is not None and torch.allclose(whole, batch.x1 - batch.x0)


def targets(objective: FlowMapMatching, net: Any, batch: Batch) -> torch.Tensor:
    jumps, diagonal = objective.jumps(net, batch, Rng(3))
    with torch.no_grad():
        return objective.target(jumps, objective.identity.predict(jumps)[1].detach(), diagonal)


def small_map(conditions: Any = None, dtype: torch.dtype = torch.float64) -> MapNetwork:
    """A small network whose output depends on both times."""
    with Rng(0).ambient():
        net = MapNetwork(MLP(2, width=16, depth=2, span=True, conditions=conditions))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p += 0.2 * Rng(1).fork(i).normal(p)
    return net.to(dtype)


def test_a_finite_difference_gives_the_target_of_forward_mode() -> None:
    net, batch = small_map(), objective_batch(32)
    for identity in (Eulerian(), Lagrangian()):
        objective = FlowMapMatching(identity=identity, velocity=TRUE)
        other = replace(objective, derivative=FiniteDifference(1e-4))
        assert torch.allclose(targets(objective, net, batch), targets(other, net, batch), atol=1e-5)


def test_warm_up_multiplies_the_derivative_term() -> None:
    net, batch = small_map(), objective_batch(32)
    objective = FlowMapMatching(velocity=TRUE, warmup=0.5)
    none, half, all_ = (at(share, objective, net, batch) for share in (0.0, 0.25, 0.5))
    assert torch.allclose(half - none, (all_ - none) / 2) and torch.allclose(all_, at(1.0, objective, net, batch))
    jumps, _ = objective.jumps(net, batch, Rng(3))
    assert torch.allclose(none, FLOW.field(jumps.x, jumps.t)) and objective.spec.evolves


def test_jumps_grow_with_the_training() -> None:
    objective = FlowMapMatching(growth=0.5, spans=Ordered(diagonal=0.25))
    lengths = []
    for share in (0.0, 0.25, 0.5, 1.0):
        with at_progress(share):
            jumps, _ = objective.jumps(small_map(), objective_batch(32), Rng(3))
            made = objective(small_map(), objective_batch(32), Rng(3))
        lengths.append(jumps.s - jumps.t)
        assert torch.isfinite(made.value)
    assert not lengths[0].any() and torch.allclose(2 * lengths[1], lengths[2]) and torch.equal(lengths[2], lengths[3])
    assert objective.spec.evolves


def at(share: float, *rest: Any) -> torch.Tensor:
    with at_progress(share):
        return targets(*rest)


def test_the_gradient_of_a_terminal_velocity_passes_through_the_derivative() -> None:
    net, batch = small_map(), objective_batch(16)
    objective = FlowMapMatching(identity=Lagrangian(through=True), velocity=TRUE, spans=Ordered(diagonal=0.0))
    loss = objective(net, batch, Rng(0))
    (found,) = torch.autograd.grad(loss.value, [net.backbone.out.weight])
    direction = Rng(4).normal(net.backbone.out.weight)
    jumps, _ = objective.jumps(net, objective_batch(16), Rng(0))
    assert float((found * direction).sum()) == pytest.approx(slope_of(objective, net, batch, direction), rel=1e-4)


def slope_of(objective: Any, net: Any, batch: Batch, direction: torch.Tensor) -> float:
    """The derivative of the loss along a direction, by differences, with the target held fixed."""
    weight, h, found = net.backbone.out.weight, 1e-5, []
    fixed: list[torch.Tensor] = []
    for step in (0.0, h, -h):
        with torch.no_grad():
            weight += step * direction
        plain = bl.objectives.FlowMatching()
        jumps, diagonal = objective.jumps(net, plain.pairs(batch, Rng(0), net), Rng(0))
        predicted, u = objective.identity.predict(jumps)
        fixed = fixed or [objective.target(jumps, u.detach(), diagonal).detach()]
        found.append(float((predicted - fixed[0]).square().mean().detach()))
        with torch.no_grad():
            weight -= step * direction
    return (found[1] - found[2]) / (2 * h)


def test_guidance_in_the_target_is_that_of_the_scale() -> None:
    """Both forms have the guided velocity as their fixed point: w v + (1 - w) v_null of the exact velocities."""
    net = small_map({"label": {"classes": 2}})
    cond = {"label": torch.arange(8) % 2}
    batch = replace(objective_batch(8), cond=cond)
    objective = FlowMapMatching(velocity=GuidedTarget(OfTeacher(bl.Flow(lambda x, t, cond=None: x)), 3.0, 0.0))
    jumps, _ = objective.jumps(net, batch, Rng(3))
    weak = net(jumps.x, jumps.t, {"label": torch.full((8,), 2)})
    own = net(jumps.x, jumps.t, cond)
    assert torch.allclose(objective.source(jumps, jumps.x, jumps.t), 3 * jumps.x - 2 * weak)
    same = GuidedTarget(OfTeacher(bl.Flow(lambda x, t, cond=None: x)), scale=3.0, mixing=1 - 1 / 3)
    assert torch.allclose(same(jumps, jumps.x, jumps.t), jumps.x + (1 - 1 / 3) * (own - weak))
    late = replace(same, window=(2 / 3, 1.0))
    early = jumps.t < 2 / 3
    assert torch.equal(late(jumps, jumps.x, jumps.t)[early], jumps.x[early])


def test_spans_have_their_shares() -> None:
    like = torch.empty(0)
    for spans in (Ordered(), Gapped(), FromStarts(), Dyadic(4)):
        t, s, k = spans(4000, like, Rng(0))
        assert k == round(4000 * spans.diagonal) and torch.equal(t[:k], s[:k]) and bool((s >= t).all())
        assert float(t.min()) >= 0 and float(s.max()) <= 1
    assert float((ToEnd()(8, like, Rng(0)).s - 1).abs().max()) == 0 and not FromNoise()(8, like, Rng(0)).t.any()
    lengths = (lambda span: span.s - span.t)(Dyadic(4, diagonal=0.0)(4000, like, Rng(0)))
    assert sorted(set(lengths.tolist())) == [0.125, 0.25, 0.5, 1.0]
    with at_progress(0.3):
        first = Dyadic(4, rounds=True, diagonal=0.0)(4000, like, Rng(0))
    assert sorted(set((first.s - first.t).tolist())) == [0.125, 0.25]
    counts = [Ordered(diagonal=0.25)(1, like, Rng(i)).diagonal for i in range(400)]
    assert set(counts) == {0, 1} and 60 < sum(counts) < 140


def test_splits_at_both_ends_of_a_training() -> None:
    t, s = torch.full((2,), 0.3), torch.full((2,), 0.8)
    for split, start, end in (
        (SigmoidFalling(), 1.0, 0.005),
        (Falling(0.1, 0.002), 0.1, 0.002),
        (Between(0.5, 0.5), 0.5, 0.5),
    ):
        for share, value in ((0.0, start), (1.0, end)):
            with at_progress(share):
                assert split(t, s, Rng(0)).tolist() == pytest.approx([value] * 2)
    with at_progress(0.0):
        assert NoiseRatio(q=256.0, scale=0.0)(t, s, Rng(0))[0] < 0.05  # ratio 1 - 1/256
        assert NoiseRatio()(torch.full((1,), 0.9), torch.ones(1), Rng(0)) == 1.0  # the whole jump


def test_distances_bound_the_gradient() -> None:
    far = torch.full((1, 4), 100.0)
    for distance, bound in ((AdaptivePower(), 0.02), (NormalisedTangent(), 0.51)):
        u = torch.zeros(1, 4, requires_grad=True)
        (g,) = torch.autograd.grad(distance(u, far).sum(), u)
        assert 0 < float(g.abs().max()) < bound
    exact = AdaptivePower(power=0.0)(torch.zeros(1, 4), far)
    assert float(exact) == 1e4


def test_what_cannot_work_is_refused() -> None:
    batch = Batch(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"a second time: build it with span=True.*spanned"):
        FlowMapMatching()(bl.Network(MLP(2)), batch, Rng(0))
    with pytest.raises(ValueError, match="where no pair passes; use terminal=OwnDiagonal"):
        FlowMapMatching(identity=Lagrangian(), velocity=OfPair())
    with pytest.raises(ValueError, match="where no pair passes"):
        FlowMapMatching(identity=Lagrangian())(small_map(), batch, Rng(0))
    with pytest.raises(ValueError, match="leave warmup at 0"):
        FlowMapMatching(identity=Semigroup(), warmup=0.1)
    with pytest.raises(ValueError, match="use an affine path"):
        FlowMapMatching(path=bl.paths.Bridge(0.5))
    labelled = as_map(lambda x, t, cond=None, s=None: x)
    with pytest.raises(ValueError, match="the data have none"):
        FlowMapMatching(velocity=GuidedTarget())(labelled, batch, Rng(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_objectives_of_networks_in_two_precisions(dtype: torch.dtype) -> None:
    net = small_map(dtype=dtype)
    for identity in (Eulerian(), Lagrangian(OwnDiagonal(), through=True), Semigroup(), Stepped()):
        check_objective(FlowMapMatching(identity=identity, warmup=0.0), net, Batch(torch.randn(8, 2)))
