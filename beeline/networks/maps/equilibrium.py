"""A network whose features are the fixed point of one block, with gradients by the implicit function theorem."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring, Traits, nulls_of_labels
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.checks import check_sizes
from beeline.networks.embed import Conditions, Embedding, check_state, dtype_of
from beeline.networks.fp32 import zeroed


def fixed_point(f: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Tensor:
    """The fixed point z = f(z) of a contraction by iteration, with implicit gradients.

    dz/dp = (1 - df/dz)^-1 df/dp;  the inverse by as many iterations of its transpose in the backward pass
    Memory is that of one evaluation of ``f``, whatever the number of iterations.  There is no forward-mode derivative.

    >>> a = torch.tensor([2.0], requires_grad=True)
    >>> z = fixed_point(lambda z: 0.5 * z + a, torch.zeros(1), 40)
    >>> torch.autograd.grad(z.sum(), a)[0]
    tensor([2.])
    """
    with torch.no_grad():
        z = start
        for _ in range(iterations):
            z = f(z)
    if not torch.is_grad_enabled():
        return z
    out = f(z)
    if not out.requires_grad:
        return out
    inner = z.detach().requires_grad_(True)
    again = f(inner)

    def solved(gradient: Tensor) -> Tensor:
        g = gradient
        for _ in range(iterations):
            g = gradient + torch.autograd.grad(again, inner, g, retain_graph=True)[0]
        return g

    out.register_hook(solved)
    return out


class Equilibrium(Declaring):
    """A network for vectors whose features are the fixed point of one block, told the time and the condition.

    z = tanh(W z + V x + shift(t, c)),  output = U z;  W is scaled so that its norm is at most ``contraction``
    More iterations cost time and no weights and no memory; the error falls at least by ``contraction`` in each.
    Assumes [B,size], or [B,*shape] for a small datum of any shape, which is flattened.  It has no forward-mode
    derivative, so that objectives with one take a finite difference.
    Source: Bai, Kolter and Koltun 2019, "Deep Equilibrium Models" (arXiv 1909.01377); as a one-step student: Geng et
    al. 2024, "One-Step Diffusion Distillation via Deep Equilibrium Models" (arXiv 2401.08639), there a transformer.

    >>> Equilibrium(2, width=16)(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        size: int | None = None,  # coordinates of one datum; None: computed from ``shape``
        width: int = 128,  # 32 to 1024
        conditions: Conditions | None = None,
        iterations: int = 20,  # of the block
        contraction: float = 0.8,  # largest norm of W, 0 to 1
        *,
        shape: Sequence[int] | None = None,  # shape of one datum that is not a vector
    ):
        super().__init__()
        self.shape = tuple(int(n) for n in (shape if shape is not None else [] if size is None else [size]))
        count = math.prod(self.shape)
        require(
            bool(self.shape) and count >= 1 and size in (None, count),
            f"Equilibrium got size={size} and shape={shape}; it needs the number of coordinates of one datum: set "
            "size=D, or a shape whose product is the size",
        )
        check_sizes("Equilibrium", width=width, iterations=iterations)
        require(
            0 < contraction < 1,
            f"Equilibrium got contraction={contraction}; iterations reach a fixed point for a norm between 0 and 1 "
            "only: give 0.5 to 0.95",
        )
        self.settings: dict[str, Any] = {"size": count, "width": width, "iterations": iterations}
        self.settings |= {"contraction": contraction, "shape": list(self.shape)}
        embed_width = max(32, width // 4)
        self.embed = Embedding(embed_width, conditions, count=32, scale=30.0)
        self.inp, self.tell = nn.Linear(count, width), nn.Linear(embed_width, width)
        self.again = nn.Linear(width, width, bias=False)
        self.out = zeroed(nn.Linear(width, count))

    @property
    def traits(self) -> Traits:
        return Traits(nulls=nulls_of_labels(self.embed.cond.conditions))

    @property
    def last_layer(self) -> nn.Module:
        return self.out

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.settings, "conditions": self.embed.cond.conditions}

    def contracting(self) -> Tensor:
        """W, scaled by a bound of its norm, the root of the largest sums of its rows and of its columns."""
        size = self.again.weight.abs()
        bound = (size.sum(0).max() * size.sum(1).max()).sqrt()
        return self.again.weight * (self.settings["contraction"] / bound).clamp(max=1)

    def features(self, x: Tensor, t: Tensor, cond: Cond = None, iterations: int | None = None) -> Tensor:
        """The fixed point [B,width]."""
        check_state(self, x, t, self.shape)
        e = self.embed(t, cond, None)
        told = self.inp(x.flatten(1)) + self.tell(e.to(dtype_of(self.tell, e)))
        w = self.contracting()
        count = self.settings["iterations"] if iterations is None else iterations
        return fixed_point(lambda z: torch.tanh(z @ w.T + told), torch.zeros_like(told), count)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        require(
            s is None,
            "Equilibrium got an end time s; it has no second time: use MLP(span=True), UNet or DiT for a flow map",
        )
        output: Tensor = self.out(self.features(x, t, cond))
        return output.reshape(x.shape)
