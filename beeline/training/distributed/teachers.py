"""Networks that an objective holds and does not train, such as a teacher: frozen, sharded, and counted."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import DeclaresStacks
from beeline.core.modes import modules_of
from beeline.core.protocols.training import Parallel


@contextlib.contextmanager
def frozen(objective: Any, networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """Context manager: the networks of an objective are in evaluation mode, and their weights without gradients.

    What is part of ``networks``, which are trained, is left alone.  All flags are restored on exit.
    """
    trained = _trained(networks)
    modules = [m for m in modules_of(objective) if id(m) not in trained]
    switched = [m for m in modules if m.training]
    weights = {id(p): p for m in modules for p in m._parameters.values() if p is not None and p.requires_grad}
    fixed = [p for key, p in weights.items() if key not in trained]
    for module in switched:
        module.training = False
    for p in fixed:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for module in switched:
            module.training = True
        for p in fixed:
            p.requires_grad_(True)


def frozen_bytes(objective: Any, networks: Mapping[str, nn.Module]) -> int:
    """Bytes of the weights and buffers of the networks of an objective that are not trained."""
    trained = _trained(networks)
    held: dict[int, Tensor] = {}
    for module in modules_of(objective):
        tensors = (*module._parameters.values(), *module._buffers.values())
        held |= {id(t): t for t in tensors if t is not None and id(t) not in trained}
    return sum(t.numel() * t.element_size() for t in held.values())


def shared_names(objective: Any, networks: Mapping[str, nn.Module]) -> list[str]:
    """The trained networks whose weights an objective holds, so that its targets change in training."""
    used = {id(p) for module in modules_of(objective) for p in module._parameters.values()}
    return [name for name, net in networks.items() if any(id(p) in used for p in net.parameters())]


def shard(
    objective: Any,
    networks: Mapping[str, nn.Module],
    engine: Parallel,
    device: torch.device,
    dtype: torch.dtype | None,
    seen: dict[int, Any],
) -> None:
    """Enter sharded copies of the networks of an objective into ``seen``, from which ``moved`` takes them.

    Networks that declare blocks (``stacks``) are sharded, which are called as modules; others, such as encoders, and
    networks that share weights with a trained one, are replicated.
    """
    trained = _trained(networks)
    for network in _networks(objective):
        inside = {id(part) for part in (*network.modules(), *network.parameters())}
        if id(network) not in seen and not inside & trained:
            made = engine.wrap(copy.deepcopy(network).eval().requires_grad_(False), device, dtype)
            seen[id(network)] = seen[id(made)] = made
            seen.setdefault(id(seen), []).append(network)  # keeps the id from being used again


def _trained(networks: Mapping[str, nn.Module]) -> set[int]:
    tensors = (t for net in networks.values() for t in (*net.parameters(), *net.buffers()))
    return {id(t) for t in tensors} | {id(m) for net in networks.values() for m in net.modules()}


def _networks(objective: Any) -> list[nn.Module]:
    """The outermost networks of an objective that declare blocks."""
    called = [m for m in modules_of(objective) if isinstance(m, DeclaresStacks)]
    inner = {id(part) for m in called for part in m.modules() if part is not m}
    return [m for m in called if id(m) not in inner and next(m.parameters(), None) is not None]
