"""Relative error of weights [256,512] as signs and sizes of rank one: with rows and columns of different sizes, against
signs and one size for a row; Gaussian weights. Velocities of a small flow of the ring before and after training."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.compressing.factors import Signs
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.recover import Recovered
from benchmarks.claims.storing import gauss, ring, velocity_change, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "OneBit: signs, and sizes of rank one"
CLAIM = "One bit keeps at least 83 percent of the performance after training."


def rows(w: torch.Tensor) -> float:
    return float((w.sign() * w.abs().mean(1, keepdim=True) - w).norm() / w.norm())


def measure(rng: bl.Rng) -> list[Finding]:
    w = gauss(rng)
    scales = [rng.fork(k).normal(torch.empty(n)).exp() for k, n in enumerate(w.shape)]
    uneven = w * scales[0][:, None] * scales[1]
    net, method = ring(rng.seed), Quantize(Signs(), rest=None)
    start, end = (velocity_change(m, net, rng) for m in (method, Recovered(method)))
    return [
        finding("uneven rows and columns: sizes of rank one (figure) against a size for a row", rows(uneven),
                weight_error(Signs(), uneven), float((uneven.sign() * uneven.abs().mean() - uneven).norm()
                / uneven.norm()), "one size"),
        finding("velocities of the ring: 300 steps of training (figure) against none", start, end, start,
                "no training"),
        finding("velocities of the ring: one bit, trained (figure) against an error of 0.17", 0.17, end, start,
                "no training"),
    ]  # fmt: skip
