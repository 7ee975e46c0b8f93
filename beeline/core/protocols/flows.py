"""Protocols of what a flow is made of and sampled with: one class for each slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Dynamics, Point

if TYPE_CHECKING:  # annotations alone: nothing here needs them to run
    from beeline.fields.flow import Flow
    from beeline.paths.affine import AffinePath

Number: TypeAlias = "float | Tensor"
"""A coefficient of a step: a float where the whole batch shares its time, else float64 with the shape of the time."""


class Path(Protocol):
    """Joins x0 and x1 by a curve; the velocity of a flow is the mean slope of the curves through a state."""

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point: ...


class Latent(Protocol):
    """The size g(t) of a latent noise that is zero at both ends, and its slope g'(t)."""

    def size(self, t: Tensor) -> Tensor: ...

    def slope(self, t: Tensor) -> Tensor: ...


class TimeSampler(Protocol):
    """Draws n times in [0, 1]; a weight over times is a separate argument of the objective."""

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor: ...

    def log_prob(self, t: Tensor) -> Tensor: ...


class Schedule(Protocol):
    """[steps+1] strictly monotone times from ``start`` to ``end``, rising or falling."""

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor: ...


class Source(Protocol):
    """A law to draw x0 from."""

    @property
    def gaussian(self) -> bool:
        """Whether it is the standard Gaussian, from which a velocity gives a score."""
        ...

    def sample(self, like: Tensor, rng: Rng) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor: ...


class Coupling(Protocol):
    """Fills ``x0``; data, conditions and weights keep their order.

    A coupling that samples x0 declares its ``source`` (SourceCoupling); one that pairs a whole data set before training
    has a method ``stored`` (StoredCoupling).  Without them the batch brings x0.
    """

    @property
    def independent(self) -> bool:
        """Whether x0 and x1 are independent, without which a velocity gives no score."""
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
        """The data set with a source point for every datum, which stays the same in all epochs."""
        ...


def source_of(coupling: Coupling | None) -> Source | None:
    """The source that a coupling samples x0 from; None where the batch brings x0."""
    return coupling.source if isinstance(coupling, SourceCoupling) else None


def gaussian_independent(coupling: Coupling | None) -> bool:
    """Whether a coupling is independent with a Gaussian source, which scores and fixed ends assume."""
    source = source_of(coupling)
    return coupling is not None and coupling.independent and source is not None and source.gaussian


class VelocityField(Protocol):
    """v(x, t, cond): where a state [B,*S] moves at time t ([B] or [B,F])."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


class FlowMap(Protocol):
    """u(x, t, cond, s): the average velocity of the jump from t to s, x_s = x + (s - t) u.

    Its diagonal u(x, t, t) is a velocity field.  A class declares that it is one by ``is_flow_map = True``; a function
    is declared by ``as_map``.
    """

    is_flow_map: ClassVar[bool] = True

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor: ...


class Backbone(Protocol):
    """A network without any idea of paths, noise, guidance or training."""

    stacks: Mapping[str, nn.ModuleList]  # its repeated blocks, by name

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor: ...

    def describe(self) -> dict[str, Any]: ...


class Prediction(Protocol):
    """The quantity that a network outputs, with its conversion to a velocity and back."""

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor: ...

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor: ...


@runtime_checkable
class FixedEndPrediction(Prediction, Protocol):
    """A prediction whose velocity at the ends of the path is fixed.

    Those ends hold for an independent coupling with a Gaussian source, and other couplings are refused.
    """

    @property
    def error_space(self) -> Prediction:
        """The prediction in whose space errors are measured."""
        ...


@dataclass(frozen=True)
class SolverTraits:
    """What a solver needs of a flow, and how it behaves; the defaults are those of a plain ODE method."""

    paths: tuple[Any, ...] = ()  # whose coefficients its formulas use: each has to be the flow's own
    score: bool = False  # needs a Gaussian source and an independent coupling
    adaptive: bool = False  # the number of evaluations depends on the field
    stochastic: bool = False  # adds noise
    multistep: bool = False  # uses earlier steps: a single step of it is of lower order
    parallel: bool = False  # solves many steps at once, which it learns of in ``init_memory``
    augmented_state: bool = False  # its state is lifted to [B,2,*S]
    tokens: bool = False  # its states stay one-hot
    space: Any = None  # the curved space on which its states stay

    def merged(self, inner: SolverTraits) -> SolverTraits:
        """The traits of a solver with these of its own around a solver with the traits ``inner``."""
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
    """One step of an ODE or SDE method: all that a solver has to have.

    ``order`` is the order of convergence of the end point; ``memory`` is None on the first step of a run, or what
    ``init_memory`` gave.  The other members of FullSolver have defaults: inherit SolverBase to set some of them.
    """

    @property
    def order(self) -> int: ...

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]: ...


@runtime_checkable
class FullSolver(Solver, Protocol):
    """A solver with every member that the package uses; ``complete`` makes one of any solver."""

    @property
    def traits(self) -> SolverTraits: ...

    def init_memory(self, times: Tensor) -> Any:
        """The memory of a run over ``times``, all of its times."""

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Solver:
        """The same solver with noise keyed by one seed per sample (or by none); ``names`` tell runs apart."""

    def for_rows(self, start: int, end: int) -> Solver:
        """The solver of the rows start .. end-1 of a batch: their seeds, or else noise of their own."""

    def lift(self, x: Tensor) -> Tensor:
        """The state that is integrated, from a state [B,*S]."""

    def lower(self, state: Tensor) -> Tensor:
        """The state [B,*S] of what was integrated."""


class Clock(Protocol):
    """The variable in which the last values are joined by a polynomial.

    ``weights`` gives, for values at the times ``nodes``, their weights in b_s integral D d(a/b) over [t, s] (or in
    a_s integral E d(b/a) when ``noise``); None where the clock is infinite, and the step has to be of first order.
    """

    def weights(
        self, path: AffinePath, noise: bool, t: Number, s: Number, nodes: Sequence[Number]
    ) -> list[Number] | None: ...


class NoiseProcess(Protocol):
    """z [B,*S] for the step from t to s, standard normal; the same numbers whenever the same step is asked for."""

    def __call__(self, t: Tensor, s: Tensor, like: Tensor, name: str | int = ...) -> Tensor: ...

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        """The noise with one seed per sample (or none), so that a sample's noise does not depend on its batch."""

    def for_rows(self, start: int, end: int) -> Any:
        """The noise of the rows start .. end-1 of a batch: their seeds, or else numbers of their own."""


class Diffusion(Protocol):
    """g(t)^2, the noise that a stochastic step adds per unit of time; 0 is the ODE."""

    def __call__(self, t: Tensor) -> Tensor: ...


class Divergence(Protocol):
    """(f, x [B,*S], t [B]) -> (v [B,*S], div v [B])."""

    def __call__(self, f: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]: ...


class Gradient(Protocol):
    """Walks as ``integrate`` does, and says what is kept for the way back of the gradient."""

    def __call__(self, f: Dynamics, x: Tensor, times: Tensor, solver: Solver) -> Tensor: ...


class Space(Protocol):
    """A manifold in coordinates [B,*S]; the last dimension holds one point of it."""

    def exp(self, x: Tensor, u: Tensor) -> Tensor: ...  # where the geodesic from x with velocity u is after time 1

    def log(self, x: Tensor, y: Tensor) -> Tensor: ...  # the velocity that exp takes from x to y

    def move(self, x: Tensor, u: Tensor, t: Tensor) -> Point: ...  # place and velocity after time t

    def project(self, x: Tensor) -> Tensor: ...  # the nearest point of the space

    def tangent(self, x: Tensor, u: Tensor) -> Tensor: ...  # the part of u that stays in the space

    def sample(self, like: Tensor, rng: Rng) -> Tensor: ...  # evenly spread

    def log_density(self, x: Tensor) -> Tensor: ...  # [B], of the even law

    def check(self, x: Tensor, name: str) -> None: ...  # refuse points off the space


@runtime_checkable
class SymbolPath(Protocol):
    """A path to one symbol; the velocity at a state is a mixture over what the symbol may be.

    A path that does not reach its symbol at t = 1 is a PathInside: there the classifier has the last word.
    """

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point: ...

    def state(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Tensor: ...  # of the point alone

    def mixture(self, x: Tensor, t: Tensor, p: Tensor) -> Tensor: ...  # sum_k p_k u_k(x, t)

    def sources(self) -> tuple[Source, ...]: ...  # from which it may start, the usual one first


@runtime_checkable
class SymbolClassifier(Protocol):
    """A field on symbols that gives the logits [B,*S,K] of the symbol at the data end."""

    def logits(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


class Controller(Protocol):
    """Steers a run: ``steer`` changes the drift, ``correct`` the state after a step."""

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics: ...

    def correct(self, x: Tensor, t: Tensor) -> Tensor: ...


class Guidance(Protocol):
    """Turns a field and a condition into the Dynamics of one run; memory is born in this call."""

    def __call__(self, field: Any, cond: Cond) -> Dynamics: ...

    def calls(self, t: float) -> int:
        """Field evaluations that one evaluation of the guided dynamics costs at time t."""
        ...


class Reference(Protocol):
    """Where the weak prediction comes from."""

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]: ...


class Rule(Protocol):
    """How strong and weak become one velocity; ``init_memory`` gives the function of one run, with its memory."""

    def for_run(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]: ...
