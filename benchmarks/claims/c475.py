"""Sums of 2 of 24 atoms [32] as 256 columns: how well a dense matrix times a sparse one finds them, against factors of
low rank with as many numbers. Error of outputs of a layer with loud channels and velocities of a small flow of the
ring, at equal bytes."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.compressing.factors import DenseSparse, Factors, spread
from beeline.networks.compressing.quantize import LowRank, Quantize
from benchmarks.claims.storing import loud, output_error, ring, velocity_change, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DSFormer: a small dense matrix times a sparse one"
CLAIM = "Up to 40 percent better compression than factors of low rank."
OUT, IN, ATOMS, USED = 32, 256, 24, 2


def planted(rng: bl.Rng) -> torch.Tensor:
    """A weight [32,256] whose columns are sums of 2 of 24 atoms."""
    atoms = rng.fork("atoms").normal(torch.empty(OUT, ATOMS))
    chosen = torch.stack([rng.fork("chosen", j).permutation(ATOMS)[:USED] for j in range(IN)], 1)
    return atoms @ spread(chosen, rng.fork("values").normal(torch.empty(USED, IN)), ATOMS)


def measure(rng: bl.Rng) -> list[Finding]:
    w, layer, net = planted(rng), loud(rng), ring(rng.seed)
    share = (OUT * ATOMS + 1.25 * USED * IN) / w.numel()
    plain = rng.fork("plain").normal(torch.empty(OUT, IN))
    low = output_error(Factors(0.5), layer)
    half, fewer = (Quantize(DenseSparse(s), rest=None, means=True) for s in (0.5, 0.3))
    return [
        finding("planted atoms: found (figure) against factors of equal bytes", weight_error(Factors(share, False), w),
                weight_error(DenseSparse(share, USED), w), weight_error(DenseSparse(share, USED), plain),
                "independent numbers in place of sums of atoms"),
        finding("error of outputs over that of factors, loud channels, half of the bytes", 1.0,
                output_error(DenseSparse(0.5), layer) / low, output_error(DenseSparse(0.5, inputs=False), layer) / low,
                "atoms that do not look at inputs"),
        finding("the same: 0.3 of the bytes as atoms over 0.5 as factors", 1.0,
                output_error(DenseSparse(0.3), layer) / low, output_error(Factors(0.3), layer) / low, "0.3 as factors"),
        finding("velocities of the ring, half of the bytes: atoms (figure) against factors",
                velocity_change(LowRank(0.5), net, rng), velocity_change(half, net, rng),
                velocity_change(Quantize(DenseSparse(0.5, inputs=False), rest=None), net, rng),
                "atoms that do not look at inputs"),
        finding("velocities of the ring: 0.3 of the bytes as atoms (figure) against 0.5 as factors",
                velocity_change(LowRank(0.5), net, rng), velocity_change(fewer, net, rng),
                velocity_change(LowRank(0.3), net, rng), "0.3 as factors"),
    ]  # fmt: skip
