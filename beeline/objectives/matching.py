"""Objectives: what a step of learning minimises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import full_precision, wide_batch
from beeline.core.protocols.flows import Coupling, Path, Prediction, TimeSampler
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, map_cond
from beeline.couplings.basic import Independent
from beeline.fields.flow import Data, Velocity, evaluate_field
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.guidance.null import null_like
from beeline.times.samplers import Uniform

Weight = Callable[[Tensor], Tensor]
"""Time [B] or [B,F] -> a weight of the same shape; apart from how often a time is drawn."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""(made [B,*S], wanted [B,*S]) -> [B]; a ``ContextDistance`` is also given where the two are compared."""


class Context(NamedTuple):
    """Where two values are compared: what a distance may need beside them."""

    x: Tensor  # [B,*S], the states
    t: Tensor  # [B], their times
    path: Path
    prediction: Prediction  # the space of the values

    def data(self, value: Tensor) -> Tensor:
        """The data end [B,*S] that a value implies at these states and times."""
        if isinstance(self.prediction, Data):
            return value
        require(
            isinstance(self.path, AffinePath),
            f"a distance between data was used on {type(self.path).__name__}, where a velocity implies no data end; "
            "use an affine path such as Linear(), or squared",
        )
        assert isinstance(self.path, AffinePath)
        return self.path.data(self.x, self.prediction.velocity(value, self.x, self.t, self.path), self.t)


class ContextDistance:
    """Base of the distances that need the states, the times or the data end beside the two values."""

    def at(self, where: Context) -> Distance:
        """The distance between values in this context."""
        raise NotImplementedError

    @property
    def contextual(self) -> bool:
        """Whether it cannot do without a context."""
        return True


def distance_at(distance: Distance, where: Context) -> Distance:
    """A distance with its context, where it takes one."""
    return distance.at(where) if isinstance(distance, ContextDistance) else distance


class Example(NamedTuple):
    """What a step of regression learns from: states on the path with their slopes."""

    batch: Batch  # with its source points
    t: Tensor  # [B] or [B,F]
    x: Tensor  # [B,*S]
    v: Tensor  # [B,*S], the slope that the velocity is regressed on


def one(t: Tensor) -> Tensor:
    """The weight 1 at every time.

    w(t) = 1
    Assumes nothing.
    Source: none.

    >>> one(torch.tensor([0.3]))
    tensor([1.])
    """
    return torch.ones_like(t)


def squared(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference over all coordinates, [B].

    |made - wanted|^2 / D
    Assumes nothing; its minimum is the mean.
    Source: Lipman et al. 2023 (arXiv 2210.02747).

    >>> squared(torch.ones(1, 4), torch.zeros(1, 4))
    tensor([1.])
    """
    return (made - wanted).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Huber:
    """Squared difference near zero, absolute far from it, so that outliers pull less.

    (sqrt(|d|^2 + c^2) - c) / D with c = scale D;  ``each``: the mean of sqrt(d_i^2 + scale^2) - scale over coordinates
    The first form reads the length of the whole difference d [D], the second every coordinate by itself.
    Source: Lee, Lin and Fanti 2024 (arXiv 2405.20320), c = 0.00054 D; Song and Dhariwal 2023 (arXiv 2310.14189) have
    c = 0.00054 sqrt(D), which is scale = 0.00054 / sqrt(D).  ``each``: Wang et al. 2024 (arXiv 2410.07303), 0.001.

    >>> Huber(1.0)(torch.full((1, 4), 1.5), torch.zeros(1, 4))
    tensor([0.2500])
    """

    scale: float = 0.00054  # above 0; larger is closer to squared
    each: bool = False  # coordinate by coordinate

    def __post_init__(self) -> None:
        require(
            self.scale > 0 and math.isfinite(self.scale),
            f"Huber got scale={self.scale}; it is where the distance turns from squared to absolute: give a number "
            "above 0, 0.00054 is usual",
        )

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        d = (made - wanted).flatten(1)
        if self.each:
            return ((d.square() + self.scale**2).sqrt() - self.scale).mean(1)
        c = self.scale * d.shape[1]
        return ((d.square().sum(1) + c * c).sqrt() - c) / d.shape[1]


@dataclass(frozen=True)
class Drop:
    """Replaces the whole condition of a sample by the null one, independently per sample, so that it is learned.

    cond -> null with the given probability, all conditions together or (``apart``) each by its own chance
    Assumes that the network understands the null condition; a condition that the null does not name is never dropped.
    Source: Ho and Salimans 2022 (arXiv 2207.12598).

    >>> Drop(1.0, null=10)(torch.tensor([3, 4]), 2, Rng(0), torch.empty(0))
    tensor([10, 10])
    """

    probability: float = 0.1  # 0 to 1; 0.1 to 0.2 is usual
    # by name, for the batch or for one sample, or a number for all labels or all vectors; None is that of the network
    null: Any = None
    apart: bool = False  # every condition is dropped by a chance of its own

    def __post_init__(self) -> None:
        require(
            0 <= self.probability <= 1,
            f"Drop got probability={self.probability}; a probability is between 0 and 1: 0.1 is usual",
        )

    def __call__(self, cond: Cond, n: int, rng: Rng, like: Tensor, field: Any = None) -> Cond:
        """The condition with nulls where chance says so; ``field`` is the network, which knows its null."""
        if cond is None or self.probability == 0:
            return cond
        void = null_like(self.null, cond, field)
        if self.apart and isinstance(cond, Mapping):
            assert isinstance(void, Mapping)
            return {k: self._mixed(leaf, void[k], n, rng.fork(k), like) for k, leaf in cond.items()}
        return self._mixed(cond, void, n, rng, like)

    def _mixed(self, cond: Cond, void: Cond, n: int, rng: Rng, like: Tensor) -> Cond:
        gone = rng.uniform(n, like) < self.probability

        def mix(leaf: Tensor, void: Tensor) -> Tensor:
            return torch.where(gone.reshape((-1,) + (1,) * (leaf.ndim - 1)).to(leaf.device), void, leaf)

        return map_cond(mix, cond, void)


@dataclass(frozen=True)
class FlowMatching:
    """Regression of the velocity on the slope of the path: the objective of flow matching and rectified flow.

    E over (x0, x1), t of weight(t) distance(prediction(v(x_t, t, cond)), prediction(v_t))
    Assumes a coupling whose marginals are the source and the data.  Its minimum is E[v_t | x_t], whatever the
    prediction, the weight and the law of the times.
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
        source = getattr(self.coupling, "source", None)
        require(
            not getattr(self.prediction, "fixes_ends", False)
            or (self.coupling.independent and getattr(source, "gaussian", False)),
            f"{type(self.prediction).__name__} was given with the coupling {type(self.coupling).__name__}; the ends "
            "that it fixes are those of an independent coupling with a Gaussian source: take Independent() or Velocity",
        )

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        """Loss of a velocity field on data ``batch.x1`` [B,*S]; value is a scalar in squared data units."""
        example = self.examples(batch, rng, field)
        made = evaluate_field(field, example.x, example.t, example.batch.cond)
        return self.compare(made, example)

    def examples(self, batch: Batch, rng: Rng, field: Any = None) -> Example:
        """Pairs, times, and the states and slopes on the path between them."""
        batch = self.pairs(batch, rng, field)
        assert batch.x0 is not None
        t = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        x, v = self.path.point(batch.x0, batch.x1, t, rng.fork("path"))
        return Example(batch, t, x, v)

    def compare(self, made: Tensor, example: Example) -> Loss:
        """The loss of the velocities ``made`` [B,*S] at the states of an example."""
        batch, t, _, _ = example
        return self._mean(self.errors(made, example), t, batch)

    def errors(self, made: Tensor, example: Example) -> Tensor:
        """The distances, in the shape of the times, of velocities ``made`` [B,*S] at the states of an example."""
        _, t, x, v = example
        space: Prediction = Velocity()
        if not isinstance(self.prediction, Velocity):
            require(
                isinstance(self.path, AffinePath),
                f"{type(self.prediction).__name__} prediction on {type(self.path).__name__} has no conversion from a "
                "velocity; use Velocity(), or an affine path",
            )
            assert isinstance(self.path, AffinePath)
            space = getattr(self.prediction, "measured", self.prediction)
            made, v = (space.value(x, slope, t, self.path) for slope in (made, v))
        if t.ndim > 1:  # every frame is a datum with a time of its own
            made, v, x = (part.flatten(0, 1) for part in (made, v, x))
        distance = distance_at(self.distance, Context(x, t.flatten(), self.path, space))
        return distance(made, v).reshape(t.shape)

    def pairs(self, batch: Batch, rng: Rng, field: Any = None) -> Batch:
        """The batch with its source points, its conditions dropped by chance to the null of ``field``."""
        require(len(batch.x1) > 0, "the batch is empty; a loss is a mean over data: give at least one datum")
        batch = wide_batch(batch)
        with full_precision(batch.x1.device):  # transport costs in bfloat16 would pair other points
            batch = self.coupling(batch, rng.fork("coupling"))
        if self.drop is None:
            return batch
        return replace(batch, cond=self.drop(batch.cond, len(batch.x1), rng.fork("drop"), batch.x1, field))

    def reduce(self, made: Tensor, wanted: Tensor, t: Tensor, batch: Batch) -> Loss:
        """Distance of two values [B,*S] that are no velocities of this path, weighed as in ``compare``."""
        require(
            not (isinstance(self.distance, ContextDistance) and self.distance.contextual),
            f"{type(self.distance).__name__} looks at states or data, and this objective compares values that imply "
            "none; use it in FlowMatching(), or squared, Huber or Direction here",
        )
        if t.ndim > 1:
            made, wanted = made.flatten(0, 1), wanted.flatten(0, 1)
        return self._mean(self.distance(made, wanted).reshape(t.shape), t, batch)

    def _mean(self, error: Tensor, t: Tensor, batch: Batch) -> Loss:
        """Weight over time, weight of the sample, mean."""
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


class ObjectiveWrapper:
    """What an objective around another one passes on: the path, coupling and other choices of the inner one."""

    objective: Any

    @property
    def path(self) -> Path:
        return self.objective.path  # type: ignore[no-any-return]

    @property
    def coupling(self) -> Coupling:
        return self.objective.coupling  # type: ignore[no-any-return]

    @property
    def prediction(self) -> Prediction:
        return self.objective.prediction  # type: ignore[no-any-return]

    @property
    def drop(self) -> Drop | None:
        return self.objective.drop  # type: ignore[no-any-return]

    @property
    def inner(self) -> FlowMatching:
        """The objective inside, where its states and its comparison are needed one by one."""
        require(
            hasattr(self.objective, "examples"),
            f"{type(self).__name__} was put around {type(self.objective).__name__}, whose loss is no comparison of one "
            "velocity with the slope of a path; put it around FlowMatching()",
        )
        return self.objective  # type: ignore[no-any-return]
