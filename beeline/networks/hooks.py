"""Taps: read or replace what a block of a network puts out, by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import stacks_of
from beeline.core.errors import nearest, require
from beeline.core.modes import eval_mode
from beeline.core.types import Batch, take
from beeline.fields.flow import evaluate_field


def named_blocks(net: Any) -> dict[str, nn.Module]:
    """Every repeated block of a network by name: "stack.number"."""
    return {f"{name}.{i}": block for name, stack in stacks_of(net).items() for i, block in enumerate(stack)}


@contextlib.contextmanager
def block_hooks(net: Any, at: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Inside the context, each function sees its block's output and may return another one in its place.

    at = {"block.3": f}; f(output) -> None (read) or a replacement
    Assumes a network with ``stacks``.  The taps are gone when the context ends, also after an error.
    Source: none.

    >>> import torch
    >>> from beeline.networks.mlp import MLP
    >>> seen = []
    >>> net = MLP(2, width=8)
    >>> with block_hooks(net, {"block.0": lambda h: seen.append(h.shape)}):
    ...     _ = net(torch.zeros(4, 2), torch.zeros(4))
    >>> seen
    [torch.Size([4, 8])]
    """
    known = named_blocks(net)
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


@contextlib.contextmanager
def captured_outputs(net: Any, block: str) -> Iterator[list[Tensor]]:
    """The outputs of a module of ``net``, by its dotted name, as they are made inside the context."""
    modules = dict(net.named_modules()) if isinstance(net, nn.Module) else {}
    require(
        block in modules,
        f"{type(net).__name__} has no module {block!r} to read features from; "
        + nearest(block, sorted(modules, key=len)[:20] if len(modules) > 20 else modules),
    )
    seen: list[Tensor] = []
    handle = modules[block].register_forward_hook(lambda _, __, out: seen.append(out))
    try:
        yield seen
    finally:
        handle.remove()


def latest_output(seen: list[Tensor], block: str) -> Tensor:
    """The newest output of a captured module, of the passes that learn where there are some."""
    require(
        len(seen) > 0 and all(isinstance(out, Tensor) for out in seen),
        f"the module {block!r} gave no tensor while the loss was computed; name a module that runs in every pass",
    )
    return next((out for out in reversed(seen) if out.requires_grad), seen[-1])


def block_name(field: Any, block: str = "") -> str:
    """The name of a module of a field: ``block``, or where it is empty the middle one of its repeated blocks."""
    if block:
        return block
    modules = dict(field.named_modules()) if isinstance(field, nn.Module) else {}
    found = ([block for stack in stacks_of(m).values() for block in stack] for m in modules.values())
    blocks = next((some for some in found if some), [])
    require(
        bool(blocks),
        f"{type(field).__name__} has no repeated blocks, of which the middle one could be taken; name the module whose "
        "output is meant: block='...'",
    )
    return next(name for name, m in modules.items() if m is blocks[(len(blocks) - 1) // 2])


def block_features(network: nn.Module, block: str, batch: Batch) -> Tensor:
    """What a block puts out for one or two samples."""
    from beeline.networks.hooks import captured_outputs, latest_output

    few = take(batch, torch.arange(min(2, len(batch.x1))))
    with eval_mode(network), captured_outputs(network, block) as seen:
        evaluate_field(network, few.x1, torch.zeros(len(few.x1)), few.cond)
    return latest_output(seen, block)


def block_width(network: nn.Module, block: str, batch: Batch, most: int, whose: object) -> int:
    """The number of features that a block puts out for one sample; at most ``most`` dimensions with the batch's."""
    h = block_features(network, block, batch)
    require(
        2 <= h.ndim <= most,
        f"{type(whose).__name__} was given {block!r}, whose features have the shape {tuple(h.shape)}; from a recipe it "
        f"reads {'vectors [B,D]' if most == 2 else 'vectors or tokens, the features last'}: use networks.MLP"
        f"{'' if most == 2 else ' or networks.DiT'}, or wrap the network in Python",
    )
    return h.shape[-1]
