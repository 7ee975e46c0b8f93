"""Checks of objectives at the exact field, where no small change lowers the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.distributions.mixtures import GaussianMixture

MIXTURE = GaussianMixture([[-1.5, 0.5], [1.0, -1.0], [0.5, 1.5]], [0.4, 0.6, 0.5], [0.3, 0.4, 0.3], labels=[0, 1, 1])
PLAIN = GaussianMixture([[-1.5, 0.5], [1.0, -1.0]], [0.4, 0.6], [0.3, 0.7])


class Nudged:
    """An exact field with five small learnable changes."""

    def __init__(self, exact: Callable[..., Tensor]):
        self.exact = exact
        self.by = torch.zeros(5, dtype=torch.float64, requires_grad=True)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        made = self.exact(x, t) if cond is None else self.exact(x, t, cond)
        wide = t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
        wave = torch.sin(2 * x) * torch.ones_like(made)
        ways = (torch.ones_like(made), wide * torch.ones_like(made), x + 0 * made, wave, (wide - 0.5) * x)
        return made + sum(b * w for b, w in zip(self.by, ways, strict=True))


def plain(n: int, rng: Rng) -> Batch:
    return Batch(PLAIN.sample(n, rng, dtype=torch.float64))


def labelled(n: int, rng: Rng) -> Batch:
    batch = MIXTURE.batch(n, rng, dtype=torch.float64)
    return Batch(batch.x1, cond={"label": batch.cond["label"]})  # type: ignore[index, call-overload]


def scores(
    objective: Any, field: Nudged, data: Callable[[int, Rng], Batch], n: int = 3000, batches: int = 24
) -> Tensor:
    """[5]: the mean gradient in units of its own sampling error."""
    grads = []
    for i in range(batches):
        rng = Rng(7).fork("batch", i)
        loss = objective(field, data(n, rng.fork("data")), rng.fork("loss"))
        grads.append(torch.autograd.grad(loss.value, field.by)[0])
    g = torch.stack(grads)
    return g.mean(0) / (g.std(0) / batches**0.5).clamp(min=1e-12)


def assert_minimum(objective: Any, exact: Callable[..., Tensor], data: Callable[[int, Rng], Batch] = plain) -> None:
    """The gradient vanishes at the exact field, and not away from it, so that the test can fail."""
    field = Nudged(exact)
    assert float(scores(objective, field, data).abs().max()) < 4.5
    with torch.no_grad():
        field.by += 0.3
    assert float(scores(objective, field, data, batches=12).abs().max()) > 8
