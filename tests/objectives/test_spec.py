"""Objectives of a user, written from the protocol alone, train in a run; wrappers pass the spec on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.protocols.objectives import ObjectiveSpec, heldout_of, spec_of
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.distillation.students import OneStep
from beeline.evaluation.heldout import EvenTimes, HeldOut
from beeline.fields.flow import Data, Velocity, evaluate_field
from beeline.objectives.alignment import Aligned, Dispersed, SelfRectified, SmoothSteps
from beeline.objectives.guided import GuidanceFree
from beeline.objectives.losses.adaptive_weights import Uncertain
from beeline.objectives.losses.basic import one
from beeline.objectives.matching import Drop, FlowMatching, ObjectiveBase, ObjectiveWrapper
from beeline.objectives.tables import RowMatching
from beeline.paths.affine import Cosine, Linear
from beeline.recipes import points
from beeline.runs.run import Distilled, Run, prepare, prepare_distilled, train
from beeline.sampling.guidance.temperature import Temperature
from beeline.solvers.runge_kutta import EULER
from beeline.times.samplers import At, LogitNormal
from beeline.training.fit import fit


def run_with(objective: Any) -> Run:
    small = {"data.n": 200, "training.steps": 2, "training.batch_size": 8, "network.width": 16, "network.depth": 1}
    return replace(config.change(points.two_moons(), {**small, "sampler.steps": 2}), objective=objective)


def trained(objective: Any) -> Any:
    """The bundle of a short run, without a directory."""
    run = run_with(objective)
    work = prepare(run)
    return work.finish(fit(work.networks, work.objective, work.data, run.training, log=lambda entry: None))


def straight(field: Any, batch: Batch, rng: Rng) -> Loss:
    """Flow matching as a plain function."""
    loss: Loss = FlowMatching()(field, batch, rng)
    return loss


class PairsOfThree:
    """A coupling with the required members alone: x0 is a triple of the datum."""

    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        return replace(batch, x0=3 * batch.x1)


@dataclass(frozen=True)
class Users:
    """An objective with a spec, and without a base class."""

    strength: float = 1.0

    @property
    def spec(self) -> ObjectiveSpec:
        return ObjectiveSpec(
            path=Cosine(),
            coupling=PairsOfThree(),
            prediction=Data(),
            conditions={"beta": {"size": 1}},
            networks=lambda: {"scale": nn.Linear(1, 1)},
            guidance=Temperature(2.0),
            solver=EULER,
        )

    def __call__(self, networks: Any, batch: Batch, rng: Rng) -> Loss:
        alone = not isinstance(networks, dict)
        field = networks if alone else networks["network"]
        label = batch.cond["label"] if isinstance(batch.cond, dict) else batch.cond
        cond = {"label": label, "beta": torch.ones(len(batch.x1), 1)}
        error = (evaluate_field(field, batch.x1, batch.x1.new_ones(len(batch.x1)), cond) ** 2).flatten(1).mean(1)
        if not alone:
            error = error + networks["scale"](error.detach()[:, None])[:, 0] ** 2
        return Loss(error.mean(), {"loss": error.detach().mean()}, error.detach(), torch.ones(len(error)))


@dataclass(frozen=True)
class Scaled(ObjectiveWrapper):
    """A wrapper of a user, with nothing but its loss."""

    objective: Any = field(default_factory=FlowMatching)
    scale: float = 2.0

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        loss: Loss = self.objective(field, batch, rng)
        return loss._replace(value=self.scale * loss.value)


def test_a_function_is_an_objective() -> None:
    assert spec_of(straight) == ObjectiveSpec()
    flow = trained(straight).flow
    assert flow.path == Linear() and flow.source.gaussian and not flow.independent


def test_an_objective_with_a_spec_needs_no_base_class() -> None:
    run = run_with(Users())
    work = prepare(run)
    assert work.networks.backbone.describe()["conditions"] == {"label": {"classes": 2}, "beta": {"size": 1}}
    made = fit(work.networks, work.objective, work.data, run.training, log=lambda entry: None)
    bundle = work.finish(made)
    assert bundle.flow.path == Cosine() and not bundle.flow.independent
    assert bundle.sampler.guidance == Temperature(2.0) and bundle.sampler.solver == EULER
    assert isinstance(made.prediction, Data)
    assert work.heldout is not None and work.heldout(made).mean is not None


def test_a_wrapper_passes_the_spec_on_but_not_its_networks() -> None:
    objective = FlowMatching(Cosine(), prediction=Data(), drop=Drop(0.1, null=2))
    inner, outer = spec_of(objective), spec_of(Scaled(Scaled(objective)))
    same = [f.name for f in dataclasses.fields(ObjectiveSpec) if f.name not in ("heldout", "static_graph")]
    assert all(getattr(inner, name) == getattr(outer, name) for name in same)
    assert not spec_of(Scaled(RowMatching())).baselines and spec_of(Scaled(GuidanceFree())).guidance is not None
    assert spec_of(Scaled(Aligned())).wrap is None and spec_of(Scaled(Uncertain())).networks is None
    bundle = trained(Scaled(FlowMatching(Cosine(), drop=Drop(0.1, null=2))))
    assert bundle.flow.path == Cosine() and bundle.flow.independent and bundle.flow.null == 2


@pytest.mark.parametrize("wrap", [Scaled, SelfRectified, lambda inner: Dispersed(SmoothSteps(inner)), Uncertain])
def test_held_out_losses_have_even_times_no_weight_and_no_dropout(wrap: Any) -> None:
    inner = FlowMatching(times=LogitNormal(), weight=lambda t: 5 * t, drop=Drop(0.5, null=2))
    found = heldout_of(wrap(inner), EvenTimes())
    while isinstance(found, ObjectiveWrapper):
        found = found.objective
    assert found == replace(inner, times=EvenTimes(), weight=one, drop=Drop(0.0, null=2))
    assert heldout_of(straight, EvenTimes()) is straight
    assert heldout_of(FlowMatching(times=At(0.0)), EvenTimes()).times == At(0.0)


def test_an_objective_that_is_no_dataclass_is_its_own_held_out_objective() -> None:
    class Plain(ObjectiveBase):
        def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
            return straight(field, batch, rng)

    plain = Plain()
    assert heldout_of(plain, EvenTimes()) is plain
    data = Batch(Rng(0).normal(torch.empty(8, 2)))
    assert HeldOut(plain, data, bins=2)(lambda x, t, cond=None: -x).value > 0


def test_settings_that_only_a_spec_declares_are_refused_without_one() -> None:
    @dataclass(frozen=True)
    class Undeclared:
        path: Any = field(default_factory=Cosine)

        def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
            return straight(field, batch, rng)

    with pytest.raises(BeelineError, match=r"Undeclared has the fields \['path'\] and no ``spec``.*ObjectiveBase"):
        prepare(run_with(Undeclared()))


def test_an_objective_around_one_with_networks_of_its_own_is_refused() -> None:
    for inner in (Uncertain(), Aligned()):
        with pytest.raises(BeelineError, match="trains networks of its own"):
            prepare(run_with(Dispersed(inner)))


def test_a_coupling_with_the_required_members_alone_is_enough() -> None:
    x1 = torch.ones(4, 2)
    pairs = FlowMatching(coupling=PairsOfThree()).pairs(Batch(x1), Rng(0))
    assert torch.equal(pairs.x0, 3 * x1)  # type: ignore[arg-type]
    with pytest.raises(BeelineError, match="ends that it fixes hold for an independent coupling"):
        FlowMatching(coupling=PairsOfThree(), prediction=Fixed())
    assert FlowMatching(prediction=Fixed()).prediction == Fixed()


@dataclass(frozen=True)
class Fixed:
    """A prediction of a user with fixed ends, whose errors are those of velocities."""

    error_space = Velocity()

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: Any) -> Tensor:
        return output

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: Any) -> Tensor:
        raise AssertionError("errors are measured in the error space")


def test_the_error_space_of_a_prediction_is_used() -> None:
    batch = Batch(torch.zeros(4, 2))
    losses = [FlowMatching(prediction=p)(lambda x, t: x, batch, Rng(0)).value for p in (Fixed(), Velocity())]
    assert losses[0] == losses[1]


class Late:
    """A distance of a user that uses the times, without a base class."""

    contextual = True

    def at(self, where: Any) -> Any:
        return lambda predicted, target: where.t * (predicted - target).square().mean(1)

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        raise AssertionError("it is given a context")


def test_a_distance_with_a_context_needs_no_base_class() -> None:
    batch = Batch(torch.ones(64, 2))
    loss = FlowMatching(distance=Late())(lambda x, t: 0 * x, batch, Rng(0))
    plain = FlowMatching()(lambda x, t: 0 * x, batch, Rng(0))
    assert torch.allclose(loss.per_sample, loss.t * plain.per_sample)
    with pytest.raises(BeelineError, match="Late needs states or data"):
        FlowMatching(distance=Late()).reduce(batch.x1, batch.x1, loss.t, batch)


def test_a_distillation_that_lacks_a_member_is_refused_by_its_name(tmp_path: Any) -> None:
    class Half:
        def networks(self, teacher: Any) -> Any: ...

        def data(self, teacher: Any, batch: Batch, rng: Rng) -> Batch:
            return batch

    run = run_with(FlowMatching())
    train(run, tmp_path / "run", log=lambda entry: None)
    with pytest.raises(BeelineError, match="Half was given as a distillation, but lacks .*feed, .*objective"):
        prepare_distilled(Distilled(str(tmp_path / "run"), Half()))  # type: ignore[arg-type]
    work = prepare_distilled(Distilled(str(tmp_path / "run"), OneStep(count=10)))
    assert len(work.data.x1) == 10 and work.heldout is not None and len(work.heldout.data.x1) > 10
