"""Protocols of the parts of a flow-map objective: spans of jumps, sources of velocities, identities and splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from beeline.core.protocols.flows import Solver
from beeline.core.rng import Rng

if TYPE_CHECKING:  # needed by annotations only
    from beeline.objectives.maps.jumps import Jumps


class Span(NamedTuple):
    """The times of the jumps of a batch; t = s in the first ``diagonal`` rows, a number that the host knows."""

    t: Tensor  # [B], starts
    s: Tensor  # [B], ends
    diagonal: int = 0


class Spans(Protocol):
    """A joint distribution of the start t and the end s of a jump; times have the dtype and device of ``like``.

    Inherit ``objectives.maps.spans.SpansBase``, which puts a share of the jumps on the diagonal t = s and turns some
    around.
    """

    @property
    def diagonal(self) -> float:
        """The share of jumps with t = s, at which the map is a velocity field."""
        ...

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Span: ...


class Split(Protocol):
    """Where a jump from t to s is divided: the share [B] of its length before the division, above 0 to 1."""

    @property
    def evolves(self) -> bool:
        """Whether it depends on the progress of the training."""
        ...

    def __call__(self, t: Tensor, s: Tensor, rng: Rng) -> Tensor: ...


class VelocitySource(Protocol):
    """Where the velocity of a flow-map objective comes from.  Inherit ``objectives.maps.velocities.SourceBase``.

    All results have no gradient.
    """

    @property
    def anywhere(self) -> bool:
        """Whether it gives velocities at states other than those of the batch."""
        ...

    def __call__(self, jumps: Jumps, x: Tensor, t: Tensor) -> Tensor:
        """The velocities [B,*S] at the states ``x`` and the times ``t``."""
        ...

    def average(self, jumps: Jumps, m: Tensor, solver: Solver) -> Tensor:
        """The average velocities [B,*S] from the states of the batch to the times ``m``, by a step of a solver."""
        ...


class Identity(Protocol):
    """An equation that the average velocity u(x, t, s) of a flow map satisfies, as a regression.

    Inherit ``objectives.maps.identities.IdentityBase``, which has defaults for all but ``target``.
    """

    @property
    def evolves(self) -> bool:
        """Whether it depends on the progress of the training."""
        ...

    @property
    def warms(self) -> bool:
        """Whether its target has a derivative term, which a warm-up multiplies."""
        ...

    def check(self, velocity: VelocitySource) -> None:
        """Raise BeelineError for a source of velocities with which it is not defined."""
        ...

    def predict(self, jumps: Jumps) -> tuple[Tensor, Any]:
        """What is regressed [B,*S], with its graph, and u(x, t, s)."""
        ...

    def target(self, jumps: Jumps, u: Tensor, velocity: VelocitySource) -> Tensor:
        """What it is regressed on [B,*S]; called without gradient, on jumps with t != s; ``u`` is u(x, t, s)."""
        ...
