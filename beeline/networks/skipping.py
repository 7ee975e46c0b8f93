"""Networks without some of their blocks, on copies that share all weights."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from torch import nn

from beeline.core.declared import Remembering, Traits, Wrapping, is_map, traits_of, unwrapped
from beeline.core.errors import nearest, require
from beeline.networks.hooks import named_blocks

N = TypeVar("N", bound=nn.Module)

Change: TypeAlias = Callable[[str, nn.Module], Callable[..., Any]]
"""(name, block) -> the function in place of the block's ``forward``."""


@runtime_checkable
class Shortens(Protocol):
    """A field that leaves out and changes blocks itself, as those of other libraries."""

    @property
    def block_names(self) -> tuple[str, ...]:
        """Of its repeated blocks, in the order of their evaluation."""

    def without_blocks(self, names: Sequence[str]) -> Any:
        """A copy with the same weights in which the named blocks return their input."""

    def with_forward(self, names: Sequence[str], change: Change) -> Any:
        """A copy with the same weights in which the named blocks are evaluated by other functions."""


def block_names(field: Any) -> tuple[str, ...]:
    """The names of the repeated blocks of a field, in the order of their evaluation; raises ValueError without any."""
    inner = unwrapped(field)
    require(
        not isinstance(inner, Remembering),
        f"blocks of a {type(inner).__name__} field were to be skipped or changed; a cache decides itself what is "
        "evaluated, and would reuse outputs of such blocks: use the bundle without a cache",
    )
    names = inner.block_names if isinstance(inner, Shortens) else tuple(named_blocks(inner))
    require(
        len(names) > 0,
        f"{type(inner).__name__} declares no repeated blocks that could be skipped or changed; use a network with "
        "stacks, such as networks.DiT, or a pretrained bundle without compilation",
    )
    return names


def without_blocks(field: Any, names: Sequence[str]) -> Any:
    """A field with the same weights in which the named blocks return their input; ``field`` is not changed.

    Assumes residual blocks, whose input and output have one shape and whose first argument is that input.  Raises
    ValueError for an unknown name.

    >>> import torch
    >>> from beeline.networks.mlp import MLP
    >>> net = MLP(2, width=8, depth=2)
    >>> short = without_blocks(net, ["block.1"])
    >>> next(short.parameters()) is next(net.parameters())
    True
    """
    check_names(field, names)
    inner = unwrapped(field)
    if isinstance(inner, Shortens):
        return inner.without_blocks(names)
    return with_forward(field, names, lambda name, block: _first)


def with_forward(field: Any, names: Sequence[str], change: Change) -> Any:
    """A field with the same weights in which the named blocks are evaluated by ``change(name, block)``.

    ``field`` is not changed.  Raises ValueError for an unknown name.
    """
    check_names(field, names)
    inner = unwrapped(field)
    if isinstance(inner, Shortens):
        return inner.with_forward(names, change)
    made = sharing_copy(inner)
    blocks = named_blocks(made)
    for name in names:
        blocks[name].forward = change(name, blocks[name])
    return made


def check_names(field: Any, names: Sequence[str]) -> None:
    """Raise ValueError for names that are no blocks of a field."""
    known = block_names(field)
    for name in names:
        require(name in known, f"there is no block {name!r} in {kind_of(field)}; {nearest(name, known)}")


def kind_of(field: Any) -> str:
    """The name of the class of a network, inside those that wrap it."""
    inner = unwrapped(field)
    while isinstance(inner, Wrapping):
        inner = unwrapped(inner.wrapped)
    return type(inner).__name__


def sharing_copy(net: N) -> N:
    """A copy of a network with the same parameters and buffers; hooks of one do not act on the other."""
    shared = {id(t): t for t in (*net.parameters(), *net.buffers())}
    return copy.deepcopy(net, shared)  # type: ignore[arg-type]


def _first(h: Any, *rest: Any, **more: Any) -> Any:
    return h


class ChangedBlocks(nn.Module, ABC):
    """Base of a field around a copy of another one, some of whose blocks are evaluated by other functions."""

    def __init__(self, field: Any):
        super().__init__()
        self.field = field

    @abstractmethod
    def around(self, field: Any) -> Any:
        """The same around another copy of the field inside."""

    @property
    def is_flow_map(self) -> bool:
        return is_map(self.field)

    @property
    def traits(self) -> Traits:
        """Those of the field; dtypes are converted inside."""
        return dataclasses.replace(traits_of(self.field), casts=True)

    @property
    def block_names(self) -> tuple[str, ...]:
        return block_names(self.field)

    def without_blocks(self, names: Sequence[str]) -> Any:
        return self.around(without_blocks(self.field, names))

    def with_forward(self, names: Sequence[str], change: Change) -> Any:
        return self.around(with_forward(self.field, names, change))
