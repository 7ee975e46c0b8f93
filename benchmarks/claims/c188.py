"""Inputs of layers in fixed ranges of 8 bits, which cut off the largest so that the squared error is least: normal
numbers, and velocities of a small transformer of the digits with one range and with eight by time."""

from __future__ import annotations

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.compressing.activations.ranges import InputRange, Largest, LeastError
from beeline.networks.compressing.quantize import TimeRanges
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Ranges of activations by least squared error"
CLAIM = "Ranges that cut large activations off gain up to 3.7 points over others that need no data."


class Quarter(InputRange):
    """A range that cuts off too much."""

    def __call__(self, x: Tensor, largest: Tensor, top: int) -> Tensor:
        return largest / 4


def rounded(x: Tensor, ranges: InputRange, top: int) -> float:
    """The squared error of numbers that are rounded within a range."""
    step = ranges(x, x.abs().max(), top) / top
    return float(((x / step).round().clamp(-top, top) * step - x).square().mean())


def measure(rng: bl.Rng) -> list[Finding]:
    x = rng.fork("normal").normal(torch.empty(100_000))
    found = [
        finding(f"normal numbers, {bits} bits: squared error, least (figure) against that of the largest range",
                rounded(x, Largest(), top), rounded(x, LeastError(), top), rounded(x, Quarter(), top),
                "a quarter of the largest")
        for bits, top in ((4, 7), (8, 127))
    ]  # fmt: skip
    net, probe, fresh = digits(rng.seed)
    for intervals in (1, 8):
        methods = [TimeRanges(intervals, ranges=ranges) for ranges in (Largest(), LeastError(), Quarter())]
        wide, least, cut = (change_of(m.apply(net, m.plan(net, probe), probe, rng), net, fresh) for m in methods)
        found.append(finding(f"{intervals} ranges by time: velocities with least error, relative to the largest", 1.0,
                             least / wide, cut / wide, "a quarter of the largest"))  # fmt: skip
    return found
