"""Deltas with the structure of blocks: reflections, shared tiles and Kronecker products."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.ranges import Count, dataclass
from beeline.networks.adapters.delta import Delta


def reflected(w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """W H for H = blockdiag(I - u u^T + v v^T) on the inputs; ``u`` and ``v`` [blocks,width], unit vectors inside."""
    blocks, width = u.shape
    padded = F.pad(w, (0, blocks * width - w.shape[1])).view(len(w), blocks, width)
    u, v = (F.normalize(part.float(), dim=1).to(w.dtype) for part in (u, v))
    along = [(padded * part).sum(-1, keepdim=True) * part for part in (v, u)]
    return w + (along[0] - along[1]).flatten(1)[:, : w.shape[1]]


@dataclass(frozen=True)
class Ether(Delta):
    """Relaxed reflections of blocks of inputs and outputs (ETHER+).

    W' = G^T W H,  H = blockdiag(I - u u^T + v v^T) with unit vectors, u = v at first, G the same on the outputs
    |H - I| <= sqrt(2 blocks) whatever the learning rate.  Where ``blocks`` do not divide a side the last is smaller.
    Source: Bini et al. 2024, "ETHER: Efficient Finetuning of Large-Scale Models with Hyperplane Reflections" (arXiv
    2405.20271).

    >>> Ether(2).start(torch.eye(4))["in_u"].shape
    torch.Size([2, 2])
    """

    blocks: Count = 4
    both: bool = True  # sides, or inputs alone

    def start(self, w: Tensor) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for side, n in (("in", w.shape[1]), ("out", len(w)))[: 1 + self.both]:
            blocks = min(self.blocks, n)
            u = nn.init.normal_(torch.empty(blocks, -(-n // blocks)))
            keep = torch.arange(u.numel()).view_as(u) < n
            made |= {f"{side}_u": u * keep, f"{side}_v": u * keep}
        return {name: value.clone() for name, value in made.items()}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        w = reflected(w, p["in_u"], p["in_v"])
        return reflected(w.mT, p["out_u"], p["out_v"]).mT if self.both else w


@dataclass(frozen=True)
class Reflections(Delta):
    """Reflections of blocks of inputs (ETHER).

    W' = W blockdiag(I - 2 u u^T / |u|^2)
    The change is orthogonal and has a fixed size: it does not start at the network, so train it with a warm-up.
    Source: Bini et al. 2024 (arXiv 2405.20271).

    >>> w = torch.randn(3, 4)
    >>> changed = Reflections(2).weight(w, Reflections(2).start(w))
    >>> bool(torch.allclose(torch.linalg.svdvals(changed), torch.linalg.svdvals(w), atol=1e-5))
    True
    """

    blocks: Count = 4

    def start(self, w: Tensor) -> dict[str, Tensor]:
        return {"u": Ether(self.blocks, both=False).start(w)["in_u"]}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        zero = torch.zeros_like(p["u"])
        return w + 2 * (reflected(w, p["u"], zero) - w)


@dataclass(frozen=True)
class MiSS(Delta):
    """One block of numbers for every output, repeated along the inputs; with ``affine`` it is Bone.

    W'_t = W_t + B_g, or W_t + W_t B_g + B_g where affine, for every tile W_t of a group of ``rank`` outputs
    B zero at first.  Sides that ``rank`` does not divide are padded with zeros.
    Source: Kang et al. 2024, "Bone" and "MiSS" (arXiv 2409.15371).

    >>> MiSS(2).start(torch.zeros(6, 8))["tiles"].shape
    torch.Size([3, 2, 2])
    """

    rank: Count = 4
    affine: bool = True

    def start(self, w: Tensor) -> dict[str, Tensor]:
        return {"tiles": w.new_zeros(-(-len(w) // self.rank), self.rank, self.rank)}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        (out, into), r, tiles = w.shape, self.rank, p["tiles"]
        padded = F.pad(w, (0, -into % r, 0, -out % r)).view(len(tiles), r, -1, r).transpose(1, 2)  # [G,columns,r,r]
        change = tiles[:, None].expand_as(padded)
        if self.affine:
            change = change + padded @ tiles[:, None]
        return w + change.transpose(1, 2).reshape(len(tiles) * r, -1)[:out, :into]


@dataclass(frozen=True)
class PHM(Delta):
    """A sum of Kronecker products.

    W' = W + sum_k A_k (x) S_k,  A_k [n,n] random, S_k [out/n,in/n] zero at first, k = 1..n
    Sides that n does not divide are padded.
    Source: Zhang et al. 2021, "Beyond Fully-Connected Layers with Quaternions" (arXiv 2102.08597); as an adapter
    Mahabadi et al. 2021, "Compacter" (arXiv 2106.04647).

    >>> sorted(v.shape for v in PHM(2).start(torch.zeros(4, 6)).values())
    [torch.Size([2, 2, 2]), torch.Size([2, 2, 3])]
    """

    n: Count = 4

    def start(self, w: Tensor) -> dict[str, Tensor]:
        a = nn.init.normal_(w.new_empty(self.n, self.n, self.n), std=1 / self.n)
        return {"a": a, "s": w.new_zeros(self.n, -(-len(w) // self.n), -(-w.shape[1] // self.n))}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        product = torch.einsum("kab,kij->aibj", p["a"], p["s"]).reshape(self.n * p["s"].shape[1], -1)
        return w + product[: len(w), : w.shape[1]]
