"""Taps: read or replace what a block of a network puts out, by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from beeline.core.declared import stacks_of
from beeline.core.types import nearest, require


def blocks(net: Any) -> dict[str, nn.Module]:
    """Every repeated block of a network by name: "stack.number"."""
    return {f"{name}.{i}": block for name, stack in stacks_of(net).items() for i, block in enumerate(stack)}


@contextlib.contextmanager
def taps(net: Any, at: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Inside the context, each function sees its block's output and may return another one in its place.

    at = {"block.3": f}; f(output) -> None (read) or a replacement
    Assumes a network with ``stacks``.  The taps are gone when the context ends, also after an error.
    Source: none.

    >>> import torch
    >>> from beeline.nets.small import MLP
    >>> seen = []
    >>> net = MLP(2, width=8)
    >>> with taps(net, {"block.0": lambda h: seen.append(h.shape)}):
    ...     _ = net(torch.zeros(4, 2), torch.zeros(4))
    >>> seen
    [torch.Size([4, 8])]
    """
    known = blocks(net)
    for name in at:
        require(
            name in known,
            f"a tap was asked for at {name!r}, but {type(net).__name__} has no such block; {nearest(name, known)}",
        )
    with contextlib.ExitStack() as hooks:
        for name, fn in at.items():
            hooks.enter_context(_removed(known[name].register_forward_hook(lambda _, __, out, fn=fn: fn(out))))
        yield


@contextlib.contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
