"""A small transformer of the digits with weights and inputs of one bit in its blocks, trained on the velocities of the
flow at states of its sampling: attention of queries and keys of one bit, with and without a correction of their
products of rank three."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import beeline as bl
from benchmarks.claims.storing import digits
from benchmarks.claims.taught import Computed, Taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "BiPFT: binary transformers with a correction of attention"
CLAIM = "28 times less memory and 56 times fewer operations, better than binary transformers before."
STEPS, SIZE = 100, {"depth": 2, "steps": 200}


def sign(x: Tensor) -> Tensor:
    """Signs, with gradients of the identity within [-1, 1]."""
    clipped = x.clamp(-1, 1)
    return clipped + (torch.where(x < 0, -1.0, 1.0) - clipped).detach()


class Binary(Computed):
    """Weights sign(w - mean) mean|w| of every row, and inputs a sign((x - b) / a) with learned a and b."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer)
        self.latent = nn.Parameter(layer.weight.detach().clone())
        self.scale, self.shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def weight(self) -> Tensor:
        w = self.latent - self.latent.mean(1, keepdim=True)
        size = w.abs().mean(1, keepdim=True)
        return size.detach() * sign(w / size.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.scale * sign((x - self.shift) / self.scale), self.weight(), self.bias)


class BinaryAttention(nn.Module):
    """Attention of signs of queries and keys; corrections of rank three are products of linear maps of the tokens."""

    def __init__(self, mix: Any, width: int, corrected: bool, rng: bl.Rng):
        super().__init__()
        self.mix, self.corrected = mix, corrected
        start = 0.02 * rng.normal(torch.empty(4 * mix.heads, width))
        start[2 * mix.heads :] = 0  # so that products are zero at the start, and have gradients
        self.maps = nn.Parameter(start)

    def forward(self, x: Tensor, layout: Any) -> Tensor:
        q, k, v = self.mix.divided(x)
        scores = self.signs(q) @ self.signs(k).mT
        if self.corrected:
            a, b, c, d = F.linear(x, self.maps).unflatten(-1, (4, -1)).permute(2, 0, 3, 1).unbind(0)
            first, second = torch.stack([a, c, c], -1), torch.stack([d, b, d], -1)  # [B,H,N,3]
            scores = scores + first @ second.mT
        made: Tensor = self.mix.joined((scores / q.shape[-1] ** 0.5).softmax(-1) @ v)
        return made

    def signs(self, x: Tensor) -> Tensor:
        return x.abs().mean((-1, -2), keepdim=True) * sign(x)


def binary(rng: bl.Rng, corrected: bool) -> Taught:
    """The network before training."""
    net, probe, _ = digits(rng.seed, **SIZE)
    made = Taught(net, Binary, rng, probe)
    for k, block in enumerate(made.net.block):  # type: ignore[arg-type]
        block.mix = BinaryAttention(block.mix, 32, corrected, rng.fork("maps", k))
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    fresh = digits(rng.seed, **SIZE)[2]
    start = binary(rng, False).error(fresh)
    plain, corrected = (binary(rng, kind).train(STEPS, rate=2e-3).error(fresh) for kind in (False, True))
    bits = (1 + 32 / 32) / 32  # a bit for a weight and a scale for a row of 32, over 32 bits
    return [
        finding("velocities: one bit with the correction of attention (figure) against without it", plain, corrected,
                start, "no training"),
        finding("one bit with the correction (figure) against an error of 0.2", 0.2, corrected, start, "no training"),
        finding("share of the bits of rows of 32 weights (figure) against 1/28", 1 / 28, bits, 1.0, "float32"),
    ]  # fmt: skip
