"""Inputs of networks: tokens of patches, integer positions, and precisions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


def pack(x: Tensor, p: int = 2) -> Tensor:
    """[B,C,H,W] as tokens [B, H/p W/p, C p p], one per patch; channels vary slowest inside a token."""
    b, c, h, w = x.shape
    return x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


def unpack(tokens: Tensor, h: int, w: int, p: int = 2) -> Tensor:
    """The inverse of ``pack``: tokens [B, h/p w/p, C p p] as [B,C,h,w]."""
    b, _, d = tokens.shape
    c = d // (p * p)
    return tokens.view(b, h // p, w // p, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def positions(*sizes: int, before: int = 0, after: int = 0, like: Tensor) -> Tensor:
    """Integer coordinates [prod(sizes), before + len(sizes) + after] of a grid, with zeros before and after them.

    The result is shared by later calls and must not be changed in place.
    """
    return constant(_positions, sizes, before, after, like=like)


def zeros(*sizes: int, like: Tensor) -> Tensor:
    """Zeros [*sizes], which later calls share and which must not be changed in place."""
    return constant(torch.zeros, sizes, like=like)


def _positions(sizes: tuple[int, ...], before: int, after: int, device: torch.device) -> Tensor:
    grid = torch.cartesian_prod(*[torch.arange(n, device=device) for n in sizes]).reshape(-1, len(sizes))
    return torch.nn.functional.pad(grid, (before, after))


_MOST = 64  # constants that are stored
_constants: dict[tuple[Any, ...], Tensor] = {}


def constant(make: Callable[..., Tensor], *arguments: Hashable, like: Tensor) -> Tensor:
    """make(*arguments, device) in the dtype and on the device of ``like``, made once for every dtype and device.

    Tensors of a trace or without values, such as those of FakeTensorMode, are neither stored nor replaced by stored
    ones.
    """
    plain = type(like) is Tensor and not torch.compiler.is_compiling()
    key = (make, *arguments, like.dtype, like.device)
    found = _constants.get(key) if plain else None
    if found is not None:
        return found
    with torch.inference_mode(False):
        made = make(*arguments, device=like.device).to(like.dtype)
    if plain and type(made) is Tensor and not (made.is_cuda and torch.cuda.is_current_stream_capturing()):
        if made.is_cuda:
            torch.cuda.synchronize(made.device)  # other streams may read it
        if len(_constants) >= _MOST:
            _constants.clear()
        _constants[key] = made
    return made


@runtime_checkable
class Precise(Protocol):
    """A network that knows the dtype of its inputs, as those of diffusers, which keep some parts in float32."""

    @property
    def dtype(self) -> torch.dtype: ...


def dtype_of(net: Any, x: Tensor) -> torch.dtype:
    """The dtype in which a network takes a state ``x``."""
    return net.dtype if isinstance(net, Precise) else next(net.parameters(), x).dtype


@dataclass(frozen=True)
class Known:
    """The dtype of a network's inputs, which holds until its largest parameter has another dtype.

    To find it, a network of diffusers goes through all of its modules, which takes as long as many launches.
    """

    net: nn.Module
    inputs: torch.dtype
    owner: nn.Module
    name: str  # of the largest parameter in its owner
    largest: torch.dtype

    @classmethod
    def of(cls, net: nn.Module) -> Known | None:
        """None for a network without parameters."""
        found = [(p.numel(), m, name) for m in net.modules() for name, p in m.named_parameters(recurse=False)]
        if not found:
            return None
        _, owner, name = max(found, key=lambda entry: entry[0])
        return cls(net, dtype_of(net, torch.empty(0)), owner, name, getattr(owner, name).dtype)

    def holds(self, net: nn.Module) -> bool:
        return self.net is net and getattr(self.owner, self.name).dtype == self.largest


def cast(cond: Any, dtype: torch.dtype) -> Any:
    """The condition with its floating point leaves in ``dtype``; masks and token numbers are unchanged."""
    if isinstance(cond, Tensor):
        return cond.to(dtype) if cond.dtype != dtype and cond.is_floating_point() else cond
    return {name: cast(leaf, dtype) for name, leaf in cond.items()} if isinstance(cond, Mapping) else cond
