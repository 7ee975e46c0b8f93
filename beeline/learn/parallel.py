"""Engines: how the lots of a step are shared among processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Parallel(Protocol):
    """Process ``rank`` of ``world`` works the lots rank, rank + world, ... of every step."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def wrap(self, network: nn.Module) -> nn.Module: ...

    def backward(self, loss: Tensor) -> None: ...

    def gather(self, parameters: Sequence[nn.Parameter]) -> None: ...

    def total(self, value: Tensor) -> Tensor: ...

    def norm(self, tensors: Sequence[Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class Alone:
    """One process works all lots.

    gradient = sum over the lots
    Assumes nothing.
    Source: none.

    >>> Alone().world
    1
    """

    rank = 0
    world = 1

    def wrap(self, network: nn.Module) -> nn.Module:
        return network

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def gather(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up gradients over processes: nothing to do."""

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over processes."""
        return value

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of all tensors together, in float32 or better."""
        return local_norm(tensors)


def local_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of tensors together, two kernels for all of them."""
    norms = torch._foreach_norm(list(tensors))
    return torch.linalg.vector_norm(torch.stack([n.to(torch.promote_types(n.dtype, torch.float32)) for n in norms]))
