"""Gaussian weights in rows of 64, of 8 bits and a sign, of which the first bits are kept. Velocities of a small flow of
the ring whose inner layers are trained bit by bit: the first three bits alone, with zeros and with a random message in
the five others, against all eight, and against training through the rounding to as many bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.recover import Recovered
from benchmarks.claims.storing import gauss, ring, velocity_change
from benchmarks.claims.taught import Computed, Taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Bit-wise training: every bit of a weight is a number of its own"
CLAIM = "The three most significant bits suffice, and 90 percent of a network can hold another message."
BITS = 8  # of the size of a number; the sign has one more


def bits_of(w: Tensor) -> tuple[Tensor, Tensor]:
    """The bits [8,out,in] of the sizes of numbers, the largest one first, and the unit of every row."""
    unit = w.abs().amax(1, keepdim=True) / (2**BITS - 1)
    q = (w.abs() / unit).round().int()
    return torch.stack([q >> k & 1 for k in reversed(range(BITS))]).float(), unit


def from_bits(bits: Tensor, sign: Tensor, unit: Tensor) -> Tensor:
    places = 2.0 ** torch.arange(BITS - 1, -1, -1)
    return unit * sign * torch.einsum("k,koi->oi", places, bits)


class Bits(Computed):
    """A weight whose first bits are trained, as signs of numbers, with gradients as if they were these numbers."""

    def __init__(self, layer: nn.Linear, first: int, rest: bl.Rng | None = None):
        super().__init__(layer)
        w = layer.weight.detach()
        bits, self.unit = bits_of(w)
        if rest is None:
            bits[first:] = 0
        else:
            bits[first:] = rest.integers(2, bits[first:].numel()).view_as(bits[first:]).float()
        self.trained = torch.zeros(BITS, 1, 1)
        self.trained[:first] = 1.0
        self.start = bits
        self.numbers, self.sign = nn.Parameter(bits - 0.5), nn.Parameter(torch.where(w < 0, -0.5, 0.5))

    def bits(self) -> Tensor:
        hard = self.trained * (self.numbers > 0) + (1 - self.trained) * self.start
        return hard.detach() + self.trained * (self.numbers - self.numbers.detach())

    def weight(self) -> Tensor:
        sign = torch.where(self.sign < 0, -1.0, 1.0) + 2 * (self.sign - self.sign.detach())
        return from_bits(self.bits(), sign, self.unit)


def measure(rng: bl.Rng) -> list[Finding]:
    w, net = gauss(rng).view(-1, 64), ring(rng.seed)
    bits, unit = bits_of(w)

    def error(k: int) -> float:
        some = bits.clone()
        some[k:] = 0
        return float((from_bits(some, w.sign(), unit) - w).norm() / w.norm())

    message = rng.fork("message")
    every, three, hidden = (
        Taught(net, make, rng)
        for make in (lambda layer: Bits(layer, BITS), lambda layer: Bits(layer, 3),
                     lambda layer: Bits(layer, 3, message))
    )  # fmt: skip
    untrained, noisy = three.error(), hidden.error()
    rounded = velocity_change(Recovered(Quantize(Integers(4, 64), rest=None)), net, rng)
    return [
        finding("Gaussian weights: the first three bits of eight (figure) against an error of 0.1", 0.1, error(3),
                error(1), "the first bit"),
        finding("velocities of the ring: three bits, trained (figure) against an error of 0.05", 0.05,
                three.train().error(), untrained, "no training"),
        finding("three bits, trained (figure) against all eight", every.train().error(), three.error(),
                untrained, "no training"),
        finding("three bits and a sign, trained bit by bit (figure) against training through the rounding", rounded,
                three.error(), untrained, "no training"),
        finding("three bits, trained: a message in the other five (figure) against zeros there, at most 10% worse",
                1.1 * three.error(), hidden.train().error(), noisy, "no training"),
    ]  # fmt: skip
