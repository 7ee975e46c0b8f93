"""Hooks: read or replace the outputs of blocks by name."""

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
    """The repeated blocks of a network, by "stack.index"."""
    return {f"{name}.{i}": block for name, stack in stacks_of(net).items() for i, block in enumerate(stack)}


@contextlib.contextmanager
def block_hooks(net: Any, at: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Context manager: forward hooks on named blocks, removed on exit.

    ``at`` maps block names to functions of a block's output, which return None or a replacement of the output.  Assumes
    a network with ``stacks``.

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
            f"block_hooks got the name {name!r}, but {type(net).__name__} has no such block; {nearest(name, known)}",
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
    """Context manager: a list of the outputs of a module of ``net``, given by its dotted name."""
    modules = dict(net.named_modules()) if isinstance(net, nn.Module) else {}
    require(
        block in modules,
        f"{type(net).__name__} has no module {block!r}, whose features were requested; "
        + nearest(block, sorted(modules, key=len)[:20] if len(modules) > 20 else modules),
    )
    seen: list[Tensor] = []
    handle = modules[block].register_forward_hook(lambda _, __, out: seen.append(out))
    try:
        yield seen
    finally:
        handle.remove()


def latest_output(seen: list[Tensor], block: str) -> Tensor:
    """The last captured output that requires a gradient, or else the last one."""
    require(
        len(seen) > 0 and all(isinstance(out, Tensor) for out in seen),
        f"the module {block!r} returned no tensor during the computation of the loss; its features are undefined: name "
        "a module that is called in every pass",
    )
    return next((out for out in reversed(seen) if out.requires_grad), seen[-1])


def block_name(field: Any, block: str = "") -> str:
    """``block``, or if it is empty the name of the middle one of the repeated blocks of a field."""
    if block:
        return block
    paths = block_paths(field)
    return paths[(len(paths) - 1) // 2]


def block_paths(field: Any) -> list[str]:
    """The names of the repeated blocks of a field as modules ("backbone.block.0"); ValueError where there are none."""
    modules = dict(field.named_modules()) if isinstance(field, nn.Module) else {}
    found = ([block for stack in stacks_of(m).values() for block in stack] for m in modules.values())
    blocks = next((some for some in found if some), [])
    require(
        bool(blocks),
        f"{type(field).__name__} declares no repeated blocks; the middle one is the default: name a module with "
        "block='...'",
    )
    names = {id(m): name for name, m in modules.items()}
    return [names[id(block)] for block in blocks]


def block_features(network: nn.Module, block: str, batch: Batch) -> Tensor:
    """The output of a block for one or two samples of a batch."""
    from beeline.networks.hooks import captured_outputs, latest_output

    few = take(batch, torch.arange(min(2, len(batch.x1))))
    with eval_mode(network), captured_outputs(network, block) as seen:
        evaluate_field(network, few.x1, torch.zeros(len(few.x1)), few.cond)
    return latest_output(seen, block)


def block_width(network: nn.Module, block: str, batch: Batch, most: int, whose: object) -> int:
    """The number of output features of a block; raises ValueError for outputs of more than ``most`` dimensions."""
    h = block_features(network, block, batch)
    require(
        2 <= h.ndim <= most,
        f"{type(whose).__name__} got the block {block!r}, whose features have the shape {tuple(h.shape)}; in a recipe "
        f"it takes {'vectors [B,D]' if most == 2 else 'vectors [B,D] or tokens [B,N,D]'}: use networks.MLP"
        f"{'' if most == 2 else ' or networks.DiT'}, or wrap the network in Python",
    )
    return h.shape[-1]
