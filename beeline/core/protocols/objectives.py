"""Protocols of objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import nn

from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss


class Objective(Protocol):
    """A loss for a field on a batch; every random number comes from ``rng``."""

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss: ...


class Player(NamedTuple):
    """One who learns: a loss, the parameters it moves, and how often."""

    name: str
    loss: Callable[[Batch, Rng], Loss]
    parameters: list[nn.Parameter]
    every: int = 1  # moves at steps 0, every, 2 every, ...


@runtime_checkable
class AdversarialObjective(Protocol):
    """Several networks that learn in turn (critics, fake scores, discriminators)."""

    def players(self, **networks: nn.Module) -> Sequence[Player]: ...
