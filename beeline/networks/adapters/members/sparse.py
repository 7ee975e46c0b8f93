"""Deltas of few entries, of a weight or of a transform of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from beeline.core.ranges import Count, Positive, Share, Whole, dataclass
from beeline.networks.adapters.delta import Delta


def shuffled(n: int) -> Tensor:
    """A random order of 0 .. n-1, from torch's ambient generator."""
    return nn.init.uniform_(torch.empty(n, dtype=torch.float64)).argsort()


@dataclass(frozen=True)
class Sparse(Delta):
    """A change of entries or of whole input columns that are drawn once.

    W' = W + M * D,  M fixed with the share ``share`` of ones, D zero at first
    With share=1 on the output projections of attention (layers=["mix.out"]) this is APLA.
    Source: Sorkhei et al. 2025, "APLA" (arXiv 2503.11335); Bhardwaj et al. 2024, "SHiRA" (arXiv 2406.13175).

    >>> Sparse(0.5, columns=True).start(torch.zeros(3, 4))["coefficients"].shape
    torch.Size([3, 2])
    """

    share: Share = 0.02  # of the entries, at least one
    columns: bool = False  # whole columns of inputs, whose gradient is a smaller matrix

    def start(self, w: Tensor) -> dict[str, Tensor]:
        into = w.shape[1]
        count = max(1, round(self.share * (into if self.columns else w.numel())))
        places = shuffled(into if self.columns else w.numel())[:count].sort().values
        return {"coefficients": w.new_zeros(len(w), count) if self.columns else w.new_zeros(count), "_places": places}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        if self.columns:
            return w.index_add(1, p["_places"], p["coefficients"])
        return w.flatten().index_add(0, p["_places"], p["coefficients"]).view_as(w)


@dataclass(frozen=True)
class Fourier(Delta):
    """A change with few coefficients of its Fourier transform (FourierFT).

    W' = W + scale Re(ifft2(F)),  F zero but at ``count`` places, which are drawn once from half of the plane
    (p,q) and (-p,-q) would be the same function, so that places of the other half would be wasted.
    Source: Gao et al. 2024, "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform" (arXiv 2405.03003).

    >>> Fourier(5).start(torch.zeros(8, 8))["coefficients"].shape
    torch.Size([5])
    """

    count: Count = 100  # coefficients of a layer, or all of half of its plane if it has fewer
    scale: Positive = 150.0

    def start(self, w: Tensor) -> dict[str, Tensor]:
        out, into = w.shape
        rows, columns = torch.arange(out)[:, None], torch.arange(into)[None]
        mirror = (-rows % out) * into + (-columns % into)
        half = (mirror >= rows * into + columns).flatten().nonzero()[:, 0]
        places = half[shuffled(len(half))[: self.count]].sort().values
        return {"coefficients": w.new_zeros(len(places)), "_places": places}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        plane = torch.zeros(w.numel(), device=w.device).index_add(0, p["_places"], p["coefficients"].float())
        return w + self.scale * torch.fft.ifft2(plane.view(w.shape)).real.to(w.dtype)


@dataclass(frozen=True)
class WalshHadamard(Delta):
    """A change with few coefficients of the Walsh-Hadamard transform of every row (QWHA).

    W' = W + F T,  T [n,in] of +-n^(-1/2), n the next power of two, F [out,n] zero but at ``count`` places of every row
    Of a base with few bits, ``networks.adapters.starts.cancelling`` starts it where it undoes most of the rounding.
    Source: Jeon et al. 2025, "QWHA" (arXiv 2509.17428), here with equal counts for all rows.

    >>> WalshHadamard(2).start(torch.zeros(3, 5))["coefficients"].shape
    torch.Size([3, 2])
    """

    count: Count = 8  # coefficients of a row, or all if it has fewer

    def start(self, w: Tensor) -> dict[str, Tensor]:
        n = walsh_size(w.shape[1])
        places = torch.stack([shuffled(n)[: self.count].sort().values for _ in w])
        return {"coefficients": w.new_zeros(places.shape), "_places": places}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        plane = p["coefficients"].new_zeros(len(w), walsh_size(w.shape[1]))
        return w + walsh(plane.scatter_add(1, p["_places"], p["coefficients"]))[:, : w.shape[1]]


def walsh_size(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


def walsh(x: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of the last dimension, a power of two; it is its own inverse."""
    n, step = x.shape[-1], 1
    while step < n:
        pairs = x.unflatten(-1, (-1, 2, step))
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).flatten(-3)
        step *= 2
    return x * n**-0.5


@dataclass(frozen=True)
class SVFT(Delta):
    """A change by a band of coefficients between the singular vectors of the weight.

    W' = U (S + M) V^T,  W = U S V^T,  M_ij zero at first and for |i - j| > band
    The singular vectors are stored beside the coefficients: a price in memory, not in numbers to train.
    Source: Lingam et al. 2024, "SVFT" (arXiv 2405.19597).

    >>> SVFT(1).start(torch.eye(4))["coefficients"].shape
    torch.Size([10])
    """

    band: Whole = 0  # 0 is the diagonal

    def start(self, w: Tensor) -> dict[str, Tensor]:
        u, sizes, v = torch.linalg.svd(w, full_matrices=False)
        i = torch.arange(len(sizes))
        places = ((i[:, None] - i[None]).abs() <= self.band).flatten().nonzero()[:, 0]
        return {"coefficients": w.new_zeros(len(places)), "_places": places, "_u": u, "_v": v}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        n = p["_u"].shape[1]
        m = w.new_zeros(n * n).index_add(0, p["_places"], p["coefficients"]).view(n, n)
        return w + p["_u"] @ m @ p["_v"]
