"""Protocols of objectives, and the values by which an objective declares what it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.protocols.flows import Coupling, Guidance, Path, Prediction, Solver, TimeSampler
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss


class Objective(Protocol):
    """A loss for a field on a batch; every random number comes from ``rng``.

    A function (field, batch, rng) -> Loss is an objective.  An objective that needs more than the defaults of
    ObjectiveSpec declares it by a property ``spec``; ``objectives.matching.ObjectiveBase`` is a base class.
    """

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss: ...


@dataclass(frozen=True)
class ObjectiveSpec:
    """The declaration of an objective; the defaults are those of a plain function.

    >>> ObjectiveSpec().baselines
    True
    """

    path: Path | None = None  # of the flow; None is the straight path, with a field that gives no score
    coupling: Coupling | None = None  # None is the independent coupling with a Gaussian source
    prediction: Prediction | None = None  # of the network; None is the velocity
    drop: Any = None  # condition dropout, such as objectives.Drop; None where conditions are never dropped
    conditions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of the network beside those of the data
    networks: Callable[[], Mapping[str, nn.Module]] | None = None  # trained beside the field, by name
    wrap: Callable[[nn.Module, Batch, Rng], nn.Module] | None = (
        None  # builds the trained network around a run's network
    )
    guidance: Guidance | None = None  # of samplers that name none
    solver: Solver | None = None  # of samplers that name none
    baselines: bool = True  # whether its losses compare with those of the mean and of the exact posterior of the data
    heldout: Callable[[TimeSampler], Objective] | None = None  # the objective of held-out losses; None is itself
    static_graph: bool = False  # whether every microbatch uses the same parameters: DDP then need not search for others
    span: bool = False  # whether the network takes a second time, the end of a jump, as flow maps do
    evolves: bool = False  # whether it depends on the progress of the training (core.progress)


@runtime_checkable
class SpecifiedObjective(Objective, Protocol):
    """An objective that declares a spec."""

    @property
    def spec(self) -> ObjectiveSpec: ...


def spec_of(objective: Objective) -> ObjectiveSpec:
    """The spec that an objective declares; the defaults where it declares none.

    ValueError where settings that only a spec declares are fields of a dataclass without one.

    >>> spec_of(lambda field, batch, rng: None).path is None
    True
    """
    if isinstance(objective, SpecifiedObjective):
        return objective.spec
    fields: set[str] = {f.name for f in dataclasses.fields(objective)} if dataclasses.is_dataclass(objective) else set()
    undeclared = sorted(fields & {"path", "coupling", "prediction", "drop"})
    require(
        not undeclared,
        f"the objective {type(objective).__name__} has the fields {undeclared} and no ``spec``, so that the flow would "
        "be sampled without them; inherit beeline.objectives.matching.ObjectiveBase, or add a property "
        "``spec`` -> ObjectiveSpec(path=self.path, ...)",
    )
    return ObjectiveSpec()


@runtime_checkable
class DistanceInContext(Protocol):
    """A distance that takes the states, times and path at which it compares two values.

    Inherit ``objectives.losses.basic.ContextDistance``, which has a default for ``contextual``.
    """

    def at(self, where: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """The distance (predicted [B,*S], target [B,*S]) -> [B] in a context, ``objectives.losses.basic.Context``."""
        ...

    @property
    def contextual(self) -> bool:
        """Whether it raises without a context."""
        ...


def heldout_of(objective: Any, times: TimeSampler) -> Any:
    """The objective of held-out losses that an objective declares; itself where it declares none."""
    change = objective.spec.heldout if isinstance(objective, SpecifiedObjective) else None
    return objective if change is None else change(times)


Function: TypeAlias = Callable[..., Tensor]
"""A function of tensors [B,...] with one output [B,...], such as a network with its condition."""


class Derivative(Protocol):
    """(f, inputs, tangents) -> (f(inputs), derivative of f along the tangents), both with the shape of the output."""

    def __call__(self, f: Function, inputs: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[Tensor, Tensor]: ...


class Player(NamedTuple):
    """One player of an adversarial objective: a loss, the parameters that it trains, and how often."""

    name: str
    loss: Callable[[Batch, Rng], Loss]
    parameters: list[nn.Parameter]
    every: int = 1  # is trained at steps 0, every, 2 every, ...
    static_graph: bool = False  # as in ObjectiveSpec


@runtime_checkable
class AdversarialObjective(Protocol):
    """Several networks that are trained in turn (critics, fake scores, discriminators)."""

    def players(self, **networks: nn.Module) -> Sequence[Player]: ...
