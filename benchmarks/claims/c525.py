"""Products of weights [96,128] of 2, 4 and 8 bits with 64 inputs by tables of the sums of four inputs, in torch: errors
of tables and of decoded weights in float32 against decoded weights in float64, and seconds. For one input, a weight of
2 bits takes 6,656 lookups and additions, with those that make the tables, in place of 12,288 multiplications."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.compressing.formats import Integers, unpack
from benchmarks.claims.storing import loud
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "T-MAC: products with weights of few bits by lookups in tables"
CLAIM = "On processors it is up to four times faster than decoding, with the cost in proportion to the bits."
GROUP, BATCH = 4, 64  # inputs of a table; inputs that are multiplied together


def looked_up(x: Tensor, codes: Tensor, bits: int) -> Tensor:
    """The products [B,out] of inputs [B,in] with codes [out,in]: for each bit, one lookup for every four inputs.

    sum_j c_ij x_j = sum_k 2^k sum_g T_g[b_kig],  T_g[b] = sum over the inputs j of group g whose bit in b is 1
    """
    patterns = (torch.arange(2**GROUP)[:, None] >> torch.arange(GROUP) & 1).to(x)
    tables = x.unflatten(1, (-1, GROUP)) @ patterns.mT  # [B,groups,16]
    y = x.new_zeros(len(x), len(codes))
    for k in range(bits):
        planes = (codes.long() >> k & 1).unflatten(1, (-1, GROUP)) @ 2 ** torch.arange(GROUP)  # [out,groups]
        for g in range(planes.shape[1]):
            y += 2**k * tables[:, g, planes[:, g]]
    return y


def seconds(product: Callable[[], Tensor]) -> float:
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        product()
        took.append(time.perf_counter() - begin)
    return min(took)


def by_tables(x: Tensor, stored: Mapping[str, Tensor], form: Integers) -> Tensor:
    """The products of inputs with a weight in integers."""
    sums = looked_up(x, unpack(stored["codes"], form.bits, x.shape[1]), form.bits)
    return (sums - form.top * x.sum(1, keepdim=True)) * stored["scale"].to(x).mT


def measure(rng: bl.Rng) -> list[Finding]:
    w, _, x = loud(rng)
    x = x[:BATCH]
    out, into = w.shape
    times = {}
    for bits in (2, 4, 8):
        form = Integers(bits, into)
        stored = form.encode(w)
        times[bits] = seconds(partial(by_tables, x, stored, form)), seconds(partial(form.product, x, stored, out))
    form = Integers(4, into)
    stored = form.encode(w)
    exact = form.product(x.double(), {**stored, "scale": stored["scale"].double()}, out)

    def error(y: Tensor) -> float:
        return float((y - exact).norm() / exact.norm())

    return [
        finding("4 bits: error of tables (figure) against decoding and multiplying, both in float32",
                error(form.product(x, stored, out)), error(by_tables(x, stored, form)),
                error(by_tables(x.half().float(), stored, form)), "inputs in float16"),
        finding("4 bits: seconds of tables in torch (figure) against 2.2 times those of 2 bits", 2.2 * times[2][0],
                times[4][0], times[8][0], "8 bits"),
        finding("2 bits: seconds of tables in torch (figure) against decoding and multiplying", times[2][1],
                times[2][0], times[8][0], "8 bits"),
    ]  # fmt: skip
