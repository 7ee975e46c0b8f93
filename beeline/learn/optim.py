"""Optimisers as values: settings that can be saved and compared, and a ``build`` that makes the torch optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from beeline.core.types import require


class Optimiser(Protocol):
    """Makes a torch optimiser; the engine sets its rate at every step."""

    def build(self, parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay; fused where the device has it.

    m <- b1 m + (1-b1) g,  q <- b2 q + (1-b2) g^2,  w <- w - rate (m' / (sqrt(q') + eps) + decay w)
    Assumes nothing.  Decay is for matrices and larger alone: norms and biases are left out.
    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101).

    >>> type(AdamW().build([torch.nn.Parameter(torch.ones(1))], 1e-3)).__name__
    'AdamW'
    """

    betas: tuple[float, float] = (0.9, 0.99)  # 0.999 for very long runs
    decay: float = 0.0  # 0.01 to 0.1 for large networks
    eps: float = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)
        require(
            self.decay >= 0 and self.eps > 0,
            f"AdamW got decay={self.decay}, eps={self.eps}; decay is 0 or more, eps above 0",
        )

    def build(self, parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            decayed(parameters, self.decay), lr=rate, betas=self.betas, eps=self.eps, **kernel(parameters)
        )


def check_betas(betas: tuple[float, ...]) -> None:
    """Refuse decay rates of moments outside [0, 1)."""
    require(
        len(betas) == 2 and all(0 <= b < 1 for b in betas),
        f"betas are {betas}; they are two numbers from 0 to below 1: (0.9, 0.99) is usual",
    )


def decayed(parameters: Sequence[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and larger with weight decay, vectors without."""
    wide = [p for p in parameters if p.ndim >= 2]
    thin = [p for p in parameters if p.ndim < 2]
    groups = [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}]
    if decay == 0:
        return [{"params": list(parameters), "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def kernel(parameters: Sequence[nn.Parameter]) -> dict[str, bool]:
    """The fast form of torch's own optimisers: fused, or one kernel for many tensors."""
    fit = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if fit else {"foreach": True}
