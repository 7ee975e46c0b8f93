"""Flow matching, condition dropout, and the base classes of objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.declared import fields_of, group_of
from beeline.core.errors import require
from beeline.core.modes import full_precision, wide_batch
from beeline.core.protocols.flows import (
    Coupling,
    FixedEndPrediction,
    Path,
    Prediction,
    TimeSampler,
    gaussian_independent,
)
from beeline.core.protocols.objectives import DistanceInContext, ObjectiveSpec, SpecifiedObjective, heldout_of, spec_of
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, map_cond
from beeline.couplings.basic import Independent
from beeline.fields.flow import Velocity, evaluate_field
from beeline.objectives.losses.basic import Context, Distance, Weight, distance_at, one, squared
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.guidance.null import null_like
from beeline.times.samplers import At, Uniform


class Example(NamedTuple):
    """The inputs and targets of one regression step: states on the path with their slopes."""

    batch: Batch  # with its source points
    t: Tensor  # [B] or [B,F]
    x: Tensor  # [B,*S]
    v: Tensor  # [B,*S], the slope that the velocity is regressed on


@dataclass(frozen=True)
class Drop:
    """Condition dropout: replaces the conditions of a sample by their nulls, so that the network learns the null.

    cond -> null with the given probability, all conditions together or (``apart``) each independently
    Conditions whose names agree up to the first full stop, as "text" and "text.pooled", are always dropped together.
    Assumes a network with a null for its conditions; a condition that the null does not name is never dropped.
    Source: Ho and Salimans 2022 (arXiv 2207.12598).

    >>> Drop(1.0, null=10)(torch.tensor([3, 4]), 2, Rng(0), torch.empty(0))
    tensor([10, 10])
    """

    probability: float = 0.1  # 0 to 1; 0.1 to 0.2 is usual
    # by name, for the batch or for one sample, or a number for all labels or all vectors; None is the network's null
    null: Any = None
    apart: bool = False  # drop every condition independently of the others

    def __post_init__(self) -> None:
        require(
            0 <= self.probability <= 1,
            f"Drop got probability={self.probability}; a probability is between 0 and 1: 0.1 is usual",
        )

    def __call__(self, cond: Cond, n: int, rng: Rng, like: Tensor, field: Any = None) -> Cond:
        """The conditions with some samples replaced by nulls; ``field`` is the network, which declares its nulls."""
        if cond is None or self.probability == 0:
            return cond
        void = null_like(self.null, cond, field)
        if self.apart and isinstance(cond, Mapping):
            assert isinstance(void, Mapping)
            return {k: self._mixed(leaf, void[k], n, rng.fork(group_of(k)), like) for k, leaf in cond.items()}
        return self._mixed(cond, void, n, rng, like)

    def _mixed(self, cond: Cond, void: Cond, n: int, rng: Rng, like: Tensor) -> Cond:
        gone = rng.uniform(n, like) < self.probability

        def mix(leaf: Tensor, void: Tensor) -> Tensor:
            return torch.where(gone.reshape((-1,) + (1,) * (leaf.ndim - 1)).to(leaf.device), void, leaf)

        return map_cond(mix, cond, void)


class ObjectiveBase:
    """Base of objectives that are dataclasses: the default spec, and the objective of held-out losses."""

    @property
    def spec(self) -> ObjectiveSpec:
        """Path, networks and defaults of the objective."""
        return ObjectiveSpec(heldout=self.heldout)

    def heldout(self, times: TimeSampler) -> Any:
        """The objective of held-out losses: the same with ``times``, weight one and no dropout.

        It replaces fields named ``times`` (except At) and ``weight``, dropout in any field, and objectives in any field
        by their own objective of held-out losses.
        """
        if not is_dataclass(self):
            return self
        fields = fields_of(self)
        fixed: dict[str, Any] = {
            "times": fields["times"] if isinstance(fields.get("times"), At) else times,
            "weight": one,
        }
        changes = {name: value for name, value in fixed.items() if name in fields}
        for name, value in fields.items():
            if isinstance(value, tuple | list) and any(isinstance(part, SpecifiedObjective) for part in value):
                changes[name] = type(value)(heldout_of(part, times) for part in value)
            elif isinstance(value, SpecifiedObjective):
                changes[name] = heldout_of(value, times)
            elif isinstance(value, Drop):
                changes[name] = replace(value, probability=0.0)
        return replace(self, **changes)


@dataclass(frozen=True)
class FlowMatching(ObjectiveBase):
    """Regression of the velocity on the slope of the path: the objective of flow matching and rectified flow.

    E over (x0, x1), t of weight(t) distance(prediction(v(x_t, t, cond)), prediction(v_t))
    Assumes a coupling whose marginals are the source and the data.  Its minimum is E[v_t | x_t] for every prediction,
    weight and distribution of the times.
    Source: Lipman et al. 2023 (arXiv 2210.02747); Liu, Gong and Liu 2022 (arXiv 2209.03003).

    >>> loss = FlowMatching()(lambda x, t, cond=None: -x, Batch(torch.zeros(4, 2)), Rng(0))
    >>> loss.per_sample.shape
    torch.Size([4])
    """

    path: Path = field(default_factory=Linear)
    coupling: Coupling = field(default_factory=Independent)
    times: TimeSampler = field(default_factory=Uniform)
    prediction: Prediction = field(default_factory=Velocity)  # the space in which the error is measured
    weight: Weight = one
    distance: Distance = squared
    drop: Drop | None = None

    def __post_init__(self) -> None:
        require(
            not isinstance(self.prediction, FixedEndPrediction) or gaussian_independent(self.coupling),
            f"{type(self.prediction).__name__} was given with the coupling {type(self.coupling).__name__}; the ends "
            "that it fixes hold for an independent coupling with a Gaussian source: use Independent(), or Velocity()",
        )

    @property
    def spec(self) -> ObjectiveSpec:
        """Its path, coupling, prediction and dropout."""
        common = replace(super().spec, path=self.path, coupling=self.coupling, prediction=self.prediction)
        return replace(common, drop=self.drop, static_graph=True)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        """The loss of a velocity field on data ``batch.x1`` [B,*S], in squared data units."""
        example = self.examples(batch, rng, field)
        predicted = evaluate_field(field, example.x, example.t, example.batch.cond)
        return self.compare(predicted, example)

    def examples(self, batch: Batch, rng: Rng, field: Any = None) -> Example:
        """Sample pairs and times, and compute the states and slopes on the path between them."""
        batch = self.pairs(batch, rng, field)
        assert batch.x0 is not None
        t = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        x, v = self.path.point(batch.x0, batch.x1, t, rng.fork("path"))
        return Example(batch, t, x, v)

    def compare(self, predicted: Tensor, example: Example) -> Loss:
        """The loss of the velocities ``predicted`` [B,*S] at the states of an example."""
        batch, t, _, _ = example
        return self._mean(self.errors(predicted, example), t, batch)

    def errors(self, predicted: Tensor, example: Example) -> Tensor:
        """The distances, in the shape of the times, of the velocities ``predicted`` [B,*S] from those of an example."""
        _, t, x, v = example
        space: Prediction = Velocity()
        if not isinstance(self.prediction, Velocity):
            require(
                isinstance(self.path, AffinePath),
                f"{type(self.prediction).__name__} prediction on {type(self.path).__name__} has no conversion from a "
                "velocity; use Velocity(), or an affine path",
            )
            assert isinstance(self.path, AffinePath)
            space = self.prediction
            if isinstance(space, FixedEndPrediction):
                space = space.error_space
            predicted, v = (space.value(x, slope, t, self.path) for slope in (predicted, v))
        if t.ndim > 1:  # every frame counts as a datum with its own time
            predicted, v, x = (part.flatten(0, 1) for part in (predicted, v, x))
        distance = distance_at(self.distance, Context(x, t.flatten(), self.path, space))
        return distance(predicted, v).reshape(t.shape)

    def pairs(self, batch: Batch, rng: Rng, field: Any = None) -> Batch:
        """The batch with source points, and with conditions dropped to the nulls of ``field``."""
        require(len(batch.x1) > 0, "the batch is empty; a loss is a mean over data: give at least one datum")
        batch = wide_batch(batch)
        with full_precision(batch.x1.device):  # transport costs in bfloat16 would change the pairs
            batch = self.coupling(batch, rng.fork("coupling"))
        if self.drop is None:
            return batch
        return replace(batch, cond=self.drop(batch.cond, len(batch.x1), rng.fork("drop"), batch.x1, field))

    def reduce(self, predicted: Tensor, target: Tensor, t: Tensor, batch: Batch) -> Loss:
        """The loss of two values [B,*S] that are not velocities of this path, weighted as in ``compare``."""
        require(
            not (isinstance(self.distance, DistanceInContext) and self.distance.contextual),
            f"{type(self.distance).__name__} needs states or data, and this objective compares values that imply none; "
            "use it in FlowMatching(), and squared, Huber or Direction here",
        )
        if t.ndim > 1:
            predicted, target = predicted.flatten(0, 1), target.flatten(0, 1)
        return self._mean(self.distance(predicted, target).reshape(t.shape), t, batch)

    def _mean(self, error: Tensor, t: Tensor, batch: Batch) -> Loss:
        """The mean of the errors, weighted over time and by sample."""
        plain = error.detach()
        error = self.weight(t) * error
        per_sample = error.flatten(1).mean(1) if t.ndim > 1 else error
        if batch.weight is not None:
            require(
                batch.weight.shape == per_sample.shape,
                f"the weights have shape {tuple(batch.weight.shape)} for {len(per_sample)} data; a weight is one "
                f"number per datum: give [{len(per_sample)}]",
            )
            per_sample = per_sample * batch.weight
        value = per_sample.mean()
        return Loss(value, {"loss": value.detach(), "error": plain.mean()}, per_sample.detach(), t.detach())


class ObjectiveWrapper(ObjectiveBase):
    """Base of objectives around another one, ``objective``, whose spec they pass on.

    A subclass is a dataclass with a field ``objective``.  One that declares something else overrides ``spec`` with
    ``replace(super().spec, ...)``.  The networks of the objective inside (``wrap`` and ``networks``) are not passed on:
    they are called by their own objective alone.
    """

    objective: Any

    @property
    def spec(self) -> ObjectiveSpec:
        """The spec of the objective inside."""
        return replace(spec_of(self.objective), heldout=self.heldout, wrap=None, networks=None, static_graph=False)

    @property
    def inner(self) -> FlowMatching:
        """The objective inside, for losses that need its states and its comparison separately."""
        require(
            isinstance(self.objective, FlowMatching),
            f"{type(self).__name__} got the objective {type(self.objective).__name__}, which has no states on a path "
            "with a velocity to compare; give FlowMatching(), or a subclass of it",
        )
        return self.objective  # type: ignore[no-any-return]


def check_objective(objective: Any) -> None:
    """Refuse an objective around another one that trains networks of its own."""
    while isinstance(objective, ObjectiveWrapper):
        outer, objective = objective, objective.objective
        spec = spec_of(objective)
        require(
            spec.wrap is None and spec.networks is None,
            f"{type(outer).__name__} was given the objective {type(objective).__name__}, which trains networks of its "
            "own; use the other order, or build the networks in Python",
        )
