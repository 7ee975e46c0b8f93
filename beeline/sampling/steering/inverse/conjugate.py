"""The linear systems of inverse problems, solved for every sample of a batch at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pulled(push: Callable[[Tensor], tuple[Tensor, Tensor]], residual: Tensor, ridge: float, iterations: int) -> Tensor:
    """Q z [B,*S] of the solution z of (K + ridge) z = residual [B,*M], by conjugate gradients.

    ``push(p)`` gives (Q p [B,*S], K p [B,*M]), with K symmetric and not negative.  The products Q p of the iterations
    are summed, so that Q is evaluated once in each.  A direction along which K is negative, which a network can give
    by its errors, is left out.
    """
    r = p = residual
    size = _dot(r, r)
    total: Tensor | None = None
    for k in range(iterations):
        step, product = push(p)
        curve = _dot(p, product)
        whole = curve + ridge * _dot(p, p)
        length = torch.where((curve >= 0) & (whole > 0), size / whole, 0)
        part = _by_row(length, step) * step
        total = part if total is None else total + part
        if k + 1 < iterations:
            r = r - _by_row(length, r) * (product + ridge * p)
            last, size = size, _dot(r, r)
            p = r + _by_row(torch.where(last > 0, size / last, 0), r) * p
    assert total is not None
    return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _by_row(number: Tensor, like: Tensor) -> Tensor:
    return number.reshape(-1, *(1 for _ in like.shape[1:]))
