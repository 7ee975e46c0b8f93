"""The linear systems of inverse problems, solved for every sample of a batch at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pulled(push: Callable[[Tensor], tuple[Tensor, Tensor]], residual: Tensor, ridge: float, iterations: int) -> Tensor:
    """Q z [B,*S] of the solution z of (K + ridge) z = residual [B,*M], by generalised conjugate residuals.

    ``push(p)`` gives (Q p [B,*S], K p [B,*M]).  K need not be symmetric, which the derivative of a network is only
    about: the residual decreases in every iteration, where conjugate gradients can grow without bound.  For M values it
    vanishes after M iterations, and after one where K is a multiple of the identity.  Q is evaluated once in each.
    Source: Eisenstat, Elman and Schultz 1983, "Variational iterative methods for nonsymmetric systems".
    """
    r = residual
    total: Tensor | None = None
    kept: list[tuple[Tensor, Tensor, Tensor]] = []  # of earlier iterations: Q p, (K + ridge) p and its square
    for k in range(iterations):
        step, product = push(r)
        image = product + ridge * r
        for before, other, size in kept:
            share = _ratio(_dot(image, other), size)
            image, step = image - _by_row(share, image) * other, step - _by_row(share, step) * before
        size = _dot(image, image)
        length = _ratio(_dot(r, image), size)
        part = _by_row(length, step) * step
        total = part if total is None else total + part
        if k + 1 < iterations:
            r = r - _by_row(length, r) * image
            kept.append((step, image, size))
    assert total is not None
    return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b, 0)


def _by_row(number: Tensor, like: Tensor) -> Tensor:
    return number.reshape(-1, *(1 for _ in like.shape[1:]))
