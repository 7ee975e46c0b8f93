"""Networks for the protocol tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.rng import Rng
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.networks.unet import UNet

LABEL = {"label": {"classes": 10}}

ZOO: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "MLP": (lambda **kw: MLP(6, width=32, depth=2, **kw), (6,)),
    "MLP of a shape": (lambda **kw: MLP(width=32, shape=(3, 4), frames=3, **kw), (3, 4)),
    "UNet": (lambda **kw: UNet((2, 7, 6), width=8, **kw), (2, 7, 6)),
    "UNet without attention": (
        lambda **kw: UNet((1, 8, 8), width=8, multipliers=[1, 3], blocks=2, attention=False, channels_last=True, **kw),
        (1, 8, 8),
    ),
    "DiT": (lambda **kw: DiT((1, 8, 8), width=16, depth=2, heads=2, **kw), (1, 8, 8)),
    "DiT padded": (lambda **kw: DiT((3, 5, 7), patch=3, width=16, depth=1, heads=2, **kw), (3, 5, 7)),
}


def alive(name: str, seed: int = 0, **settings: Any) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of the zoo with random values in its zero-initialised layers."""
    make, shape = ZOO[name]
    with Rng(seed).ambient():
        net = make(**settings)
        for p in net.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.2)
    return net.eval(), shape


def inputs(shape: tuple[int, ...], n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """States, times and labels."""
    rng = Rng(7)
    x = rng.fork("x").normal(torch.empty(n, *shape, dtype=dtype))
    return x, rng.fork("t").uniform(n, torch.empty(0, dtype=dtype)), rng.fork("label").integers(10, n)
