"""Energies in the units of the user: of columns, of letters, of pixels."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, NoReturn, TypeVar

from beeline.core.declared import fields_of
from beeline.core.errors import BeelineError

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
    found: Any = part
    if modality is None:
        return part
    if isinstance(part, ModalityDependent):
        found = part.for_modality(modality)
    elif isinstance(part, tuple):
        made = tuple(for_modality(one, modality) for one in part)
        found = part if all(a is b for a, b in zip(made, part, strict=True)) else made
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        changed = {name: for_modality(value, modality) for name, value in fields_of(part).items()}
        changed = {name: value for name, value in changed.items() if value is not fields_of(part)[name]}
        found = dataclasses.replace(part, **changed) if changed else part
    return found  # type: ignore[no-any-return]
