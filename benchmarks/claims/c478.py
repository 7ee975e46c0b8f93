"""Weights [64,64] as chains of three cores: sums of three Kronecker products of three small matrices, and independent
numbers, against factors of low rank with as many numbers. Velocities of a small flow of the ring with a quarter and 6
percent of the numbers of its inner layers, after 300 steps of training; also against sums of Kronecker products."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.factors import Factors, Kronecker, split
from beeline.networks.compressing.formats import Format
from beeline.networks.compressing.quantize import LowRank, Quantize
from beeline.networks.compressing.recover import Recovered
from benchmarks.claims.storing import gauss, ring, velocity_change, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "CompactifAI: weights as matrix-product operators"
CLAIM = "93 percent less memory at 2 to 3 percent less accuracy."


@dataclass(frozen=True)
class MatrixProduct(Format):
    """A chain of small cores.

    W[o1..on, i1..in] ~ A_1[o1,i1] A_2[o2,i2] .. A_n[on,in],  A_k [o_k,i_k] a matrix [bond,bond]
    Outputs and inputs are numbered by n digits; the cores are found by singular values, one after another.
    """

    cores: int = 3
    bond: int = 8  # at most

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        rows, columns = digits(w.shape[0], self.cores), digits(w.shape[1], self.cores)
        order = [k for pair in zip(range(self.cores), range(self.cores, 2 * self.cores), strict=True) for k in pair]
        rest, bond, stored = w.view(*rows, *columns).permute(order), 1, dict[str, Tensor]()
        for k, (o, i) in enumerate(zip(rows[:-1], columns[:-1], strict=True)):
            rest = rest.reshape(bond * o * i, -1)
            up, rest = split(rest, min(self.bond, *rest.shape))
            stored[f"core{k}"], bond = up.view(bond, o, i, -1), up.shape[1]
        stored[f"core{self.cores - 1}"] = rest.reshape(bond, rows[-1], columns[-1], 1).contiguous()
        return stored

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        w = stored["core0"]
        for k in range(1, self.cores):
            core = stored[f"core{k}"]
            w = torch.einsum("aoib,bpjc->aopijc", w, core)
            w = w.reshape(w.shape[0], w.shape[1] * w.shape[2], w.shape[3] * w.shape[4], -1)
        return w.reshape(out, into)


def digits(n: int, count: int) -> list[int]:
    """As many factors of a power of two, as equal as possible."""
    powers = n.bit_length() - 1
    return [2 ** (powers // count + (k < powers % count)) for k in range(count)]


def planted(rng: bl.Rng, terms: int = 3) -> torch.Tensor:
    """A sum of Kronecker products of three matrices [4,4]."""
    parts = rng.fork("parts").normal(torch.empty(terms, 3, 4, 4))
    return sum((functools.reduce(torch.kron, list(term)) for term in parts), torch.zeros(64, 64))


def share(form: MatrixProduct, size: int = 64) -> float:
    """Of the numbers of a weight [size,size]."""
    return sum(core.numel() for core in form.encode(torch.eye(size)).values()) / size**2


def measure(rng: bl.Rng) -> list[Finding]:
    w, plain, net = planted(rng), gauss(rng)[:64, :64], ring(rng.seed)
    small, large, least = MatrixProduct(bond=3), MatrixProduct(bond=7), MatrixProduct(bond=1)
    low, other = (weight_error(Factors(share(small), False), v) for v in (w, plain))
    found = [
        finding("a sum of products: cores (figure) against factors of equal numbers", low, weight_error(small, w),
                weight_error(small, plain), "independent numbers in place of products"),
        finding("independent numbers: cores (figure) against factors of equal numbers", other,
                weight_error(small, plain), weight_error(least, plain), "cores of bond 1"),
    ]  # fmt: skip
    loss = velocity_change(Recovered(Quantize(least, rest=None)), net, rng)
    low, tiny, more, two, made = (
        velocity_change(Recovered(method), net, rng)
        for method in (LowRank(share(large), False), LowRank(share(small), False), Quantize(large, rest=None),
                       Quantize(Kronecker(2), rest=None), Quantize(small, rest=None))
    )  # fmt: skip
    return [
        *found,
        finding("velocities of the ring, a quarter of the numbers, trained: cores (figure) against factors", low, more,
                loss, "cores of bond 1"),
        finding("the same with 6 percent of the numbers", tiny, made, loss, "cores of bond 1"),
        finding("the same: three cores (figure) against two, which are sums of Kronecker products", two, made, loss,
                "cores of bond 1"),
        finding("the same: three cores (figure) against an error of 0.03", 0.03, made, loss, "cores of bond 1"),
    ]  # fmt: skip
