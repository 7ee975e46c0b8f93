"""Energies for a modality, whose units are those of the user, and for rows of a batch."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from beeline.core.declared import fields_of
from beeline.core.errors import BeelineError
from beeline.core.protocols.steering import RowEnergy

P = TypeVar("P")


class ModalityDependent(ABC):
    """Base of energies whose settings have the units of the user, and not those of encoded data."""

    @abstractmethod
    def for_modality(self, modality: Any) -> Any:
        """The energy of encoded data of a modality; ValueError for one that does not fit."""

    def unbound(self) -> NoReturn:
        """Refuse to compute an energy without a modality."""
        name = type(self).__name__
        raise BeelineError(
            f"{name} was called without a modality; its settings have the units of the user, which a modality encodes: "
            f"sample with bundle.sample(...), or use for_modality({name}(...), modality)"
        )


def for_modality(part: P, modality: Any) -> P:
    """A sampler, a controller or an energy with every energy in it for encoded data of a modality.

    Dataclasses and tuples are searched; what holds no such energy, and what has no modality (None), stays as it is.
    """
    if modality is None:
        return part
    return _changed(part, ModalityDependent, lambda energy: energy.for_modality(modality))


def for_rows(energy: P, start: int, end: int) -> P:
    """An energy with every energy in it for rows start .. end-1 of a batch."""
    return _changed(energy, RowEnergy, lambda inside: inside.for_rows(start, end))


def _changed(part: P, kind: type, change: Callable[[Any], Any]) -> P:
    """A part with the changed parts of a kind in it, through dataclasses and tuples; itself where none changes."""
    found: Any = part
    if isinstance(part, kind):
        found = change(part)
    elif isinstance(part, tuple):
        made = tuple(_changed(one, kind, change) for one in part)
        found = part if all(a is b for a, b in zip(made, part, strict=True)) else made
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        before = fields_of(part)
        after = {name: _changed(value, kind, change) for name, value in before.items()}
        after = {name: value for name, value in after.items() if value is not before[name]}
        found = dataclasses.replace(part, **after) if after else part
    return found  # type: ignore[no-any-return]
