"""Protocols of editing: what changes a datum, how it is inverted, and where it may change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from beeline.core.rng import Rng
from beeline.core.types import Cond

if TYPE_CHECKING:  # needed by annotations only
    from beeline.fields.flow import Flow
    from beeline.sampling.sampler import Sampler


class Edit(Protocol):
    """Changes data ``x`` [B,*S] that fit the condition ``cond`` into data that fit ``new_cond``.

    The sampler says with which steps, solver, guidance and controllers; random numbers come from ``rng`` alone.  With
    equal conditions the data change by the error of an inversion at most.
    """

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor: ...


class OwnChange:
    """Base of edits that change data also where both conditions are equal, such as moving an object."""


class State(NamedTuple):
    """A state of a flow and its time."""

    x: Tensor  # [B,*S]
    t: float  # in [0, 1)
    augmented: Tensor | None = (
        None  # the whole state of a solver with an augmented one, from which a run goes on exactly
    )


class Inversion(Protocol):
    """The state at time ``end`` from which a flow under ``cond`` leads to the data ``x`` [B,*S], or near them."""

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng, end: float) -> State: ...


class EditRegion(Protocol):
    """Where data ``x`` [B,*S] may change: weights in [0, 1], broadcast to [B,*S]; 1 may change, 0 is kept."""

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng) -> Tensor: ...


class Threshold(Protocol):
    """Weights in [0, 1] from a number for every position: [B,*P] -> [B,*P]; every datum has its own threshold."""

    def __call__(self, size: Tensor) -> Tensor: ...


class Places(NamedTuple):
    """Where the pixels of a picture come from; -1 is none."""

    rows: Tensor  # [B,H] the row of the source of every row
    columns: Tensor  # [B,W]


class LayerOperation(Protocol):
    """The copies of an object after an operation, the last in front; ``mask`` [B,1,H,W] marks the object."""

    def __call__(self, mask: Tensor) -> Sequence[Places]: ...
