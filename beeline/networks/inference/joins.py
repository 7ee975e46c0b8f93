"""Where features of an early part of a network meet those of a late part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import nn

from beeline.core.declared import Wrapping, unwrapped


class Join(NamedTuple):
    """One end of a long skip."""

    module: nn.Module  # its first argument holds both, the features of the late part first
    late: int  # number of their channels
    dim: int  # the dimension of channels


@runtime_checkable
class DeclaresJoins(Protocol):
    """A network with long skips."""

    @property
    def joins(self) -> Sequence[Join]:
        """Its joins in the order of their use."""
        ...


def joins_of(field: Any) -> Sequence[Join]:
    """The joins that a network declares, also inside of others; none where it declares none."""
    inner = unwrapped(field)
    while isinstance(inner, Wrapping):
        inner = unwrapped(inner.wrapped)
    return inner.joins if isinstance(inner, DeclaresJoins) else ()
