"""Protocols of steering: what is wanted of samples, and the controllers that lead a run there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from beeline.core.types import Cond, Dynamics

if TYPE_CHECKING:  # needed by annotations only
    from beeline.fields.flow import Flow


class Energy(Protocol):
    """Energies [B] of data ``x1`` [B,*S], predicted at the times ``t`` [B]; samples with a low energy are wanted.

    A log-probability log p is wanted as the energy -log p.  Controllers that take gradients need it differentiable in
    ``x1``; those that compare samples do not.
    """

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


@runtime_checkable
class RowEnergy(Energy, Protocol):
    """An energy with values of its own for every sample of a batch."""

    def for_rows(self, start: int, end: int) -> Energy:
        """The energy of rows start .. end-1 of a batch."""
        ...


class Operator(Protocol):
    """What is measured of data [B,*S]: ``apply`` gives the measured values [B,*M].

    A linear operator also has the ``adjoint``, from [B,*M] to [B,*S], with <A x, y> = <x, A' y>.
    """

    def apply(self, x: Tensor) -> Tensor: ...


class LinearOperator(Operator, Protocol):
    """A linear operator."""

    def adjoint(self, y: Tensor) -> Tensor: ...


class FullOperator(LinearOperator, Protocol):
    """An operator with every member that the package uses; ``complete_operator`` adds the missing ones to any."""

    @property
    def linear(self) -> bool:
        """Whether it is linear, so that it has an adjoint."""
        ...

    @property
    def orthogonal(self) -> bool:
        """Whether A A' is a multiple of the identity on the values that A takes."""
        ...

    def prepared(self, like: Tensor) -> FullOperator:
        """The operator for data of the shape, type and device of ``like`` [B,*S]; ValueError where it does not fit."""
        ...

    def measured(self, y: Tensor) -> Tensor:
        """The values ``y`` [B,*M] with zeros where nothing was measured."""
        ...

    def for_rows(self, start: int, end: int) -> FullOperator:
        """The operator for rows start .. end-1 of a batch."""
        ...


@dataclass(frozen=True)
class Run:
    """What is known of a run before its first step."""

    flow: Flow
    cond: Cond  # with one row for each sample
    times: Tensor  # [steps+1], or one row for each sample


class Controller(Protocol):
    """Steers a run: ``steer`` changes the drift, ``correct`` the state [B,*S] after each step, at its time ``t``."""

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics: ...

    def correct(self, x: Tensor, t: Tensor) -> Tensor: ...


@runtime_checkable
class FullController(Controller, Protocol):
    """A controller with every member that the package uses; ``complete_controller`` adds the missing ones to any."""

    def for_run(self, run: Run) -> Controller:
        """The controller of one run; memory of the run is created in this call."""

    def calls(self, t: float) -> int:
        """Evaluations of the drift for one evaluation of the steered drift at time ``t``."""
        ...

    def correction_calls(self, t: float) -> int:
        """Evaluations of the drift for one correction at time ``t``."""
        ...

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Controller:
        """The controller with noise keyed by one seed per sample; ``names`` distinguish runs."""

    def for_rows(self, start: int, end: int) -> Controller:
        """The controller for rows start .. end-1 of a batch."""
