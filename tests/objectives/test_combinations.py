"""Combinations of components: terms with gradients, noise independent of conditions, ends that hold."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import beeline as bl
from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Independent, MinibatchOT, PairedOrOT, assign, squared_cost
from beeline.couplings.transport import ConditionalOT, Remembered, Sinkhorn, Unbalanced
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.students import Reflow
from beeline.fields.conversion import convert_flow
from beeline.fields.flow import Data, Network
from beeline.fields.prediction import Boundary
from beeline.networks.mlp import MLP
from beeline.objectives.alignment import Dispersed, SelfRectified, SmoothSteps
from beeline.objectives.guided import Anticipating, ModelGuidance
from beeline.objectives.losses.weights import MinSNR
from beeline.objectives.matching import Drop, FlowMatching
from beeline.paths.affine import Linear, Polynomial, VariancePreserving
from beeline.paths.interpolant import Bridge, Interpolant, SineSquared, VarianceExploding
from beeline.recipes.images import digits
from beeline.recipes.learning import boundary
from beeline.runs.run import prepare
from beeline.spaces.manifold import Geodesic, Sphere
from beeline.times.composed import snr_log_prob
from beeline.times.samplers import Uniform, UShaped


def normal(*shape: int, key: int = 0) -> torch.Tensor:
    return Rng(key).normal(torch.empty(shape))


@pytest.mark.parametrize("guided", [ModelGuidance, Anticipating])
def test_a_term_on_features_has_gradients_through_guided_targets(guided: type) -> None:
    """The weak pass is second and without gradient; the term uses the pass with gradient."""
    with Rng(0).ambient():
        net = Network(MLP(2, width=16, depth=2, conditions={"label": {"classes": 3}}))
    batch = Batch(normal(32, 2), cond={"label": torch.arange(32) % 3})
    inner = guided(FlowMatching(drop=Drop(0.1, null=3)))
    sizes = {}
    for strength in (0.0, 100.0):
        net.zero_grad()
        Dispersed(inner, "backbone.block.0", strength=strength)(net, batch, Rng(1)).value.backward()
        sizes[strength] = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()
    assert sizes[100.0] > 1.5 * sizes[0.0]


def test_errors_of_a_boundary_network_are_measured_as_velocities() -> None:
    batch = Batch(normal(64, 2))
    wrong = lambda x, t: x + 1  # noqa: E731
    plain, masked = (FlowMatching(prediction=p)(wrong, batch, Rng(1)).value for p in (bl.Velocity(), Boundary()))
    assert torch.equal(plain, masked)
    assert isinstance(prepare(boundary()).networks.prediction, Boundary)


def test_fixed_ends_are_refused_where_they_do_not_hold() -> None:
    for coupling in (MinibatchOT(), bl.couplings.Paired(), Independent(bl.sources.Uniform())):
        with pytest.raises(BeelineError, match="ends that it fixes"):
            FlowMatching(prediction=Boundary(), coupling=coupling)
    with pytest.raises(BeelineError, match="wrong for pairs"):
        Reflow().networks(bl.Flow(Network(MLP(2, width=8, depth=1), prediction=Boundary())))


def test_couplings_that_tie_conditions_to_noise_are_refused() -> None:
    n = 256
    other = normal(n, 1, key=3)
    cond = {"label": torch.arange(n) % 2, "other": other}
    for coupling in (MinibatchOT(by="label"), PairedOrOT(), ConditionalOT(by="label")):
        with pytest.raises(BeelineError, match="other|conditions"):
            coupling(Batch(3 * other, cond=cond), Rng(0))
    tied = MinibatchOT(by="label", biased=True)(Batch(3 * other, cond=cond), Rng(0)).x0
    assert torch.corrcoef(torch.cat([tied, other], 1).T)[0, 1] > 0.9  # the reason of the refusal


def test_an_assignment_of_labelled_data_leaves_noise_and_label_independent() -> None:
    labels = torch.arange(600) % 3
    x1 = normal(600, 2) / 2 + 3 * torch.nn.functional.one_hot(labels, 3)[:, :2]
    stored = Remembered().stored(Batch(x1, cond={"label": labels}), Rng(2))
    assert stored.x0 is not None
    means = torch.stack([stored.x0[labels == k].mean(0) for k in range(3)])
    assert means.abs().max() < 4 / math.sqrt(200)
    assert (stored.x0 - x1).square().sum() < 0.9 * (stored.x0.roll(3, 0) - x1).square().sum()


def test_exact_transport_is_exact_far_from_the_source() -> None:
    x0, x1 = normal(64, 3), normal(64, 3, key=1)
    for shift in (1e3, 1e4):
        moved = (x1.double() + shift).float()
        best = assign(x0.double(), moved.double())
        made = assign(x0, moved)
        cost = lambda order: float((x0[order] - x1).square().sum())  # noqa: E731, B023
        assert cost(made) == pytest.approx(cost(best), rel=1e-6)


def test_an_entropic_plan_that_has_not_converged_is_refused_and_endless_reach_is_balanced() -> None:
    batch = Batch(normal(128, 2) * 3, x0=normal(128, 2, key=1))
    with pytest.raises(BeelineError, match="increase iterations"):
        Sinkhorn(epsilon=0.0005, iterations=5)(batch, Rng(0))
    cost = squared_cost(batch.x0, batch.x1)
    assert torch.allclose(Unbalanced(reach=math.inf).plan(cost), Sinkhorn().plan(cost), atol=1e-12)
    with pytest.raises(BeelineError, match="iterations=0"):
        Unbalanced(iterations=0)


@pytest.mark.parametrize("path", [Linear(), VariancePreserving(), VarianceExploding()])
@pytest.mark.parametrize("times", [Uniform(), UShaped()])
def test_a_density_over_levels_has_the_mass_of_the_levels_that_exist(path: object, times: object) -> None:
    lam = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    mass = torch.trapezoid(snr_log_prob(times, path, lam).exp(), lam)
    assert float(mass) == pytest.approx(1, abs=5e-3)


def test_antipodal_points_have_a_geodesic_and_points_are_matched_one_to_one() -> None:
    x = Sphere().project(normal(5, 3).double())
    x[0] = torch.tensor([0.0, 0.0, 1.0])
    one = torch.ones(5, dtype=torch.float64)
    assert torch.allclose(Geodesic().point(x, -x, one).x, -x, atol=1e-12)
    half = Geodesic().point(x, -x, one / 2)
    assert torch.allclose(half.x.norm(dim=1), one) and torch.allclose(half.v.norm(dim=1), math.pi * one)
    with pytest.raises(BeelineError, match="one to one"):
        Geodesic().point(x[:1], x, one)


def test_a_flow_on_another_path_ends_where_its_slope_is_infinite() -> None:
    mixture = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], 0.4)
    flow = bl.Flow(mixture.field(Linear()))
    x0 = normal(200, 2).double()
    straight, preserving = (bl.Sampler(200)(f, x0) for f in (flow, convert_flow(flow, VariancePreserving())))
    assert (straight - preserving).abs().max() < 0.02


def test_the_ends_of_time_have_no_score_and_finite_weights() -> None:
    with pytest.raises(BeelineError, match="where g.t. = 0"):
        Interpolant(latent=SineSquared()).score(torch.ones(1, 2, dtype=torch.float64), torch.ones(1).double())
    for path in (Linear(), Polynomial(2.0)):
        assert MinSNR(path=path)(torch.tensor([0.0, 0.5, 1.0])).isfinite().all()


def test_combinations_that_cannot_work_are_refused() -> None:
    with pytest.raises(BeelineError, match="defined on affine paths"):
        Network(nn.Identity(), Bridge(0.5), Data())
    guided = ModelGuidance(FlowMatching(drop=Drop(0.1, null=3)))
    for objective in (SmoothSteps(guided), SelfRectified(guided)):
        with pytest.raises(BeelineError, match="give FlowMatching"):
            objective(lambda x, t, c: x, Batch(normal(4, 2), cond=torch.arange(4) % 3), Rng(0))
    with pytest.raises(BeelineError, match="batch is empty"):
        FlowMatching()(lambda x, t: x, Batch(torch.zeros(0, 2)), Rng(0))
    for weight in (torch.ones(4, 1), torch.ones(3)):
        with pytest.raises(BeelineError, match="one number per datum"):
            FlowMatching()(lambda x, t: x, Batch(normal(4, 2), weight=weight), Rng(0))
    for coupling in (MinibatchOT(), Sinkhorn(), Unbalanced()):
        with pytest.raises(BeelineError, match="one to one"):
            coupling(Batch(normal(4, 2), x0=normal(3, 2)), Rng(0))


def test_a_class_as_the_null_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BeelineError, match="classes are 0 .. 9; .* set null=10"):
        prepare(config.change(digits(), {"objective.drop": "Drop(0.1, null=0)"}))
