"""Protocols of the parts of a flow and of its sampling, one class for each slot.

Shapes: ``B`` is the batch, ``*S`` the shape of one datum, ``F`` the number of frames.  Times lie in [0, 1], where 0 is
the source and 1 the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from torch import Tensor, nn

from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Dynamics, Point

if TYPE_CHECKING:  # needed by annotations only
    from beeline.paths.affine import AffinePath

Number: TypeAlias = "float | Tensor"
"""A coefficient of a step: a float if all samples share one time, else a tensor with the shape of the time."""

Array: TypeAlias = "np.ndarray[Any, Any]"
"""Times or coefficients in float64 on the CPU."""


class Path(Protocol):
    """A curve between x0 and x1; the velocity of the flow at a state is the mean slope of the curves through it.

    ``point(x0, x1, t, rng)`` takes ends [B,*S] and times [B] or [B,F] in [0, 1], and returns Point(x, v), both [B,*S].
    ``rng`` is used by random paths only.
    """

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point: ...


class Latent(Protocol):
    """The scale g(t) of a latent noise, zero at both ends, and its slope g'(t); both have the shape of ``t``."""

    def size(self, t: Tensor) -> Tensor: ...

    def slope(self, t: Tensor) -> Tensor: ...


class TimeSampler(Protocol):
    """A distribution of training times: ``n`` samples [n] in [0, 1] in the dtype and on the device of ``like``.

    ``log_prob(t)`` is the log density in nats, with the shape of ``t``.  Weights over time are a separate argument of
    the objective.
    """

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor: ...

    def log_prob(self, t: Tensor) -> Tensor: ...


@runtime_checkable
class QuantileSampler(TimeSampler, Protocol):
    """A distribution of training times with a quantile function, which maps u in [0, 1] to times of its shape."""

    def quantile(self, u: Tensor) -> Tensor: ...


class Schedule(Protocol):
    """Strictly monotone times [steps+1] from ``start`` to ``end`` in [0, 1], rising or falling."""

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor: ...


class Source(Protocol):
    """The distribution of x0.

    ``sample(like, rng)`` returns samples with the shape, dtype and device of ``like`` [B,*S]; ``log_prob(x)`` the log
    density in nats [B].
    """

    @property
    def gaussian(self) -> bool:
        """Whether it is the standard Gaussian, for which a velocity determines a score."""
        ...

    def sample(self, like: Tensor, rng: Rng) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class SplitSource(Source, Protocol):
    """A source of a data set that is divided into training and held-out rows; it samples the held-out ones."""

    def training(self) -> Source:
        """The source of the training rows, for data from which a student learns."""
        ...


class Coupling(Protocol):
    """Returns the batch with ``x0`` [B,*S] filled in; data, conditions and weights keep their order.

    A coupling that samples x0 declares its ``source`` (SourceCoupling); one that pairs a whole data set before training
    has a method ``stored`` (StoredCoupling).  A coupling with neither takes x0 from the batch.
    """

    @property
    def independent(self) -> bool:
        """Whether x0 and x1 are independent, a condition for a velocity to determine a score."""
        ...

    def __call__(self, batch: Batch, rng: Rng) -> Batch: ...


@runtime_checkable
class SourceCoupling(Coupling, Protocol):
    """A coupling that samples x0 from ``source``."""

    @property
    def source(self) -> Source: ...


@runtime_checkable
class StoredCoupling(Coupling, Protocol):
    """A coupling that pairs a whole data set before training."""

    def stored(self, batch: Batch, rng: Rng) -> Batch:
        """The data set with a fixed source point for every datum."""
        ...


def source_of(coupling: Coupling | None) -> Source | None:
    """The source that a coupling samples x0 from, or None if x0 comes from the batch."""
    return coupling.source if isinstance(coupling, SourceCoupling) else None


def gaussian_independent(coupling: Coupling | None) -> bool:
    """Whether a coupling is independent with a Gaussian source, as scores and fixed ends assume."""
    source = source_of(coupling)
    return coupling is not None and coupling.independent and source is not None and source.gaussian


class VelocityField(Protocol):
    """v(x, t, cond): the velocity [B,*S] of a state [B,*S] at time t ([B] or [B,F])."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


class FlowMap(Protocol):
    """u(x, t, cond, s): the average velocity [B,*S] of the jump from t to s, x_s = x + (s - t) u.

    Its diagonal u(x, t, t) is a velocity field.  A class declares itself a flow map by ``is_flow_map = True``; a
    function is declared one by ``as_map``.
    """

    is_flow_map: ClassVar[bool] = True

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor: ...


class Backbone(Protocol):
    """A network that is independent of path, noise, guidance and training."""

    stacks: Mapping[str, nn.ModuleList]  # repeated blocks, by name

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor: ...

    def describe(self) -> dict[str, Any]: ...


class Prediction(Protocol):
    """The quantity that a network predicts, and its conversion to a velocity and back; all tensors are [B,*S]."""

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor: ...

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor: ...


@runtime_checkable
class FixedEndPrediction(Prediction, Protocol):
    """A prediction with a fixed velocity at the ends of the path.

    It assumes an independent coupling with a Gaussian source; other couplings raise ValueError.
    """

    @property
    def error_space(self) -> Prediction:
        """The prediction in whose space errors are measured."""
        ...


@dataclass(frozen=True)
class SolverTraits:
    """Requirements and properties of a solver; the defaults are those of a plain ODE method."""

    paths: tuple[Any, ...] = ()  # paths whose coefficients its formulas use; each must be the path of the flow
    score: bool = False  # needs a Gaussian source and an independent coupling
    adaptive: bool = False  # the number of evaluations depends on the field
    stochastic: bool = False  # adds noise
    multistep: bool = False  # uses earlier steps; a single step has a lower order
    parallel: bool = False  # solves several steps at once; ``init_memory`` gives it the times
    augmented_state: bool = False  # integrates [B,2,*S], see ``lift`` and ``lower``
    tokens: bool = False  # its states stay one-hot
    space: Any = None  # the manifold on which its states stay

    def merged(self, inner: SolverTraits) -> SolverTraits:
        """Traits of a wrapper with these traits around a solver with the traits ``inner``."""
        return SolverTraits(
            (*self.paths, *(path for path in inner.paths if path not in self.paths)),
            self.score or inner.score,
            self.adaptive or inner.adaptive,
            self.stochastic or inner.stochastic,
            self.multistep or inner.multistep,
            self.parallel or inner.parallel,
            self.augmented_state or inner.augmented_state,
            self.tokens or inner.tokens,
            inner.space if self.space is None else self.space,
        )


class Solver(Protocol):
    """One step of an ODE or SDE method from time ``t`` to ``s``; the minimal interface of a solver.

    ``order`` is the convergence order of the end point.  ``step(f, x, t, s, memory)`` takes a state [B,*S] and times
    [B] or [B,F], and returns the state at ``s`` and the memory for the next step; ``memory`` is the result of
    ``init_memory`` in the first step of a run, None by default.  FullSolver has further members, for which SolverBase
    provides the defaults.
    """

    @property
    def order(self) -> int: ...

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]: ...


@runtime_checkable
class FullSolver(Solver, Protocol):
    """A solver with every member that the package uses; ``complete`` adds the missing ones to any solver."""

    @property
    def traits(self) -> SolverTraits: ...

    def init_memory(self, times: Tensor) -> Any:
        """The memory at the start of a run over ``times`` [N+1,...], whose steps follow in this order.

        ``times`` is on the device of the state; ``core.host_times.host_times`` returns the values without waiting.
        Coefficients that depend on the times alone are computed here, once for the run.
        """

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Solver:
        """The solver with noise keyed by one seed per sample, or by none; ``names`` distinguish runs."""

    def for_rows(self, start: int, end: int) -> Solver:
        """The solver for rows start .. end-1 of a batch: with their seeds, or without seeds with a key of its own."""

    def lift(self, x: Tensor) -> Tensor:
        """The integrated state of a state [B,*S]."""

    def lower(self, state: Tensor) -> Tensor:
        """The state [B,*S] of an integrated state."""


class Clock(Protocol):
    """The variable in which a multistep method interpolates its past values by a polynomial.

    ``weights`` returns, for values at the times ``nodes``, their weights in b_s integral D d(a/b) over [t, s] (or in
    a_s integral E d(b/a) with ``noise``); they are not finite where the clock is infinite at one of these times or a
    node is NaN.  Times are float64 arrays of one shape, which hold all steps of a run.
    """

    def weights(self, path: AffinePath, noise: bool, t: Array, s: Array, nodes: Sequence[Array]) -> list[Array]: ...


class NoiseProcess(Protocol):
    """Standard normal noise z [B,*S] of the step from t to s; the same step and key give the same numbers."""

    def __call__(self, t: Tensor, s: Tensor, like: Tensor, name: str | int = ...) -> Tensor: ...

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        """The noise with one seed per sample (or none), so that a sample's noise does not depend on its batch."""

    def for_rows(self, start: int, end: int) -> Any:
        """The noise of rows start .. end-1 of a batch: with their seeds, or without seeds with a key of its own."""


class Diffusion(Protocol):
    """g(t)^2, the noise variance that a stochastic step adds per unit of time; 0 gives the ODE.

    It is also called with times on the CPU, for decisions that would synchronise with the device.
    """

    def __call__(self, t: Tensor) -> Tensor: ...


class Divergence(Protocol):
    """(f, x [B,*S], t [B]) -> (v [B,*S], div v [B])."""

    def __call__(self, f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]: ...


class Gradient(Protocol):
    """Integrates like ``integrate`` and determines what is stored for the backward pass."""

    def __call__(self, f: Dynamics, x: Tensor, times: Tensor, solver: Solver) -> Tensor: ...


class Space(Protocol):
    """A manifold in coordinates [B,*S]; the last dimension holds the coordinates of one point."""

    def exp(self, x: Tensor, u: Tensor) -> Tensor: ...  # end point after time 1 of the geodesic from x with velocity u

    def log(self, x: Tensor, y: Tensor) -> Tensor: ...  # the tangent vector u at x with exp(x, u) = y

    def move(self, x: Tensor, u: Tensor, t: Tensor) -> Point: ...  # point and velocity of the geodesic at time t

    def project(self, x: Tensor) -> Tensor: ...  # nearest point of the manifold

    def tangent(self, x: Tensor, u: Tensor) -> Tensor: ...  # projection of u onto the tangent space at x

    def sample(self, like: Tensor, rng: Rng) -> Tensor: ...  # uniform samples

    def log_density(self, x: Tensor) -> Tensor: ...  # [B], log density of the uniform distribution, in nats

    def check(self, x: Tensor, name: str) -> None: ...  # raise ValueError for points off the manifold


@runtime_checkable
class SymbolPath(Protocol):
    """A path to one-hot data [B,*S,K]; its velocity at a state is a mixture over the K symbols.

    A path that does not reach its symbol at t = 1 is an InteriorPath; its samples end at the classifier's symbol.
    """

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point: ...

    def state(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Tensor: ...  # x of ``point``

    def mixture(self, x: Tensor, t: Tensor, p: Tensor) -> Tensor: ...  # sum_k p_k u_k(x, t)

    def sources(self) -> tuple[Source, ...]: ...  # sources that fit, the default first


@runtime_checkable
class SymbolClassifier(Protocol):
    """A field on symbols with the logits [B,*S,K] of the symbol at t = 1."""

    def logits(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


class Guidance(Protocol):
    """Returns the dynamics of one run for a field and a condition; memory of the run is created in this call."""

    def __call__(self, field: Any, cond: Cond) -> Dynamics: ...

    def calls(self, t: float) -> int:
        """Number of field evaluations for one evaluation of the guided dynamics at time ``t``."""
        ...


class Reference(Protocol):
    """Returns the field and the condition of the weak prediction."""

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]: ...


@runtime_checkable
class Recalling(Reference, Protocol):
    """A reference whose weak prediction follows from the strong ones of a run, and needs no evaluation."""

    def recall(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The function (strong, x, t) -> weak of one run; it is called for every strong prediction, in their order."""
        ...


def reference_calls(reference: Reference) -> int:
    """Evaluations of a field for one weak prediction."""
    return 0 if isinstance(reference, Recalling) else 1


Combination: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(strong, weak, x, t) -> velocity."""


class Rule(Protocol):
    """Combines a strong and a weak prediction; ``for_run()`` returns the function (strong, weak, x, t) -> v."""

    def for_run(self) -> Combination: ...
