"""Activations that keep their derivatives in few bits for the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require

SMOOTH = (nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ReLU, nn.Softplus, nn.Mish)  # functions of single entries


class Lean(nn.Module):
    """An activation f whose derivative is kept in few bits; the forward pass is f, bit for bit.

    gradient = g q(f'(x)),  q: ``bits`` bits between the least and the largest of a row, rounded at random, without bias
    Source: Jin et al. 2025, "S2A: A Unified Framework for Parameter and Memory Efficient Transfer Learning" (arXiv
    2503.08154), with random rounding.

    >>> x = torch.linspace(-2, 2, 9, requires_grad=True)
    >>> torch.equal(Lean(nn.SiLU())(x), nn.functional.silu(x))
    True
    """

    def __init__(self, inner: nn.Module, bits: int = 4):
        super().__init__()
        require(
            bits in (1, 2, 4, 8),
            f"derivatives were to be kept in {bits} bits; bytes hold 1, 2, 4 or 8: set one of them",
        )
        self.inner, self.bits = inner, bits

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            out: Tensor = self.inner(x)
            return out
        with torch.no_grad():
            value = x.detach()
            y, slope = torch.func.jvp(self.inner, (value,), (torch.ones_like(value),))  # type: ignore[misc]
        found: Tensor = _Kept.apply(x, y, self.bits, *packed(slope, self.bits))  # type: ignore[no-untyped-call]
        return found


class _Kept(torch.autograd.Function):
    """The value ``y`` of an activation at ``x``, with its derivative in bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bits: int, *stored: Tensor) -> Tensor:
        ctx.shape, ctx.bits = x.shape, bits
        ctx.save_for_backward(*stored)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        stored, least, step = ctx.saved_tensors
        slope = unpacked(stored, least, step, ctx.shape, ctx.bits)
        return g * slope.to(g.dtype), *[None] * 5


def packed(x: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes of the levels of a tensor [...,n], and the least value and the step of every row."""
    least, most = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    step = (most - least) / (2**bits - 1)
    level = (x - least) / torch.where(step == 0, torch.ones_like(step), step)
    above = nn.init.uniform_(torch.empty_like(level, dtype=torch.float32))  # from the key that the engine sets
    level = (level.float() + above).floor().clamp(0, 2**bits - 1)
    each = 8 // bits
    flat = level.to(torch.uint8).flatten()
    flat = torch.cat([flat, flat.new_zeros(-len(flat) % each)]).view(-1, each)
    places = 2 ** (bits * torch.arange(each, device=x.device))
    return (flat * places).sum(1).to(torch.uint8), least, step


def unpacked(stored: Tensor, least: Tensor, step: Tensor, shape: torch.Size, bits: int) -> Tensor:
    """The values of ``packed``."""
    places = bits * torch.arange(8 // bits, device=stored.device)
    level = (stored[:, None].long() >> places) & (2**bits - 1)
    return least + step * level.flatten()[: shape.numel()].view(shape)


@contextlib.contextmanager
def saved_in_bits(network: nn.Module, bits: int = 4) -> Iterator[int]:
    """Context manager: the activations of a network are ``Lean``; gives their number.

    ValueError for a network without activations that are modules.
    """
    places = [
        (module, name, part)
        for module in network.modules()
        for name, part in module.named_children()
        if isinstance(part, SMOOTH)
    ]
    require(
        bool(places),
        f"{type(network).__name__} has no activation that is a module, such as SiLU or GELU, whose derivative could be "
        "kept in few bits; use recomputation (training.compute.checkpoint) for this network",
    )
    for module, name, part in places:
        module._modules[name] = Lean(part, bits)
    try:
        yield len(places)
    finally:
        for module, name, part in places:
            module._modules[name] = part
