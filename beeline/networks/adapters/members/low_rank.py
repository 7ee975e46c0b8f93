"""Deltas of low rank beside LoRA, and the dense difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from beeline.core.ranges import Count, Positive, dataclass
from beeline.networks.adapters.delta import Delta, low_rank_start
from beeline.networks.adapters.factors import factored


@dataclass(frozen=True)
class Difference(Delta):
    """A change by any matrix.

    W' = W + D,  D [out,in] zero at first
    Source: full finetuning; "diff" in files of LyCORIS, Yeh et al. 2023 (arXiv 2309.14859).

    >>> Difference().start(torch.zeros(3, 4))["difference"].shape
    torch.Size([3, 4])
    """

    def start(self, w: Tensor) -> dict[str, Tensor]:
        return {"difference": torch.zeros_like(w)}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return w + p["difference"]


@dataclass(frozen=True)
class DoRA(Delta):
    """A change of low rank of the direction of every row, and a length of every row.

    W' = m V / |V| by rows,  V = W + scale B A,  m [out] the lengths of W at first
    Source: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353).

    >>> p = DoRA(2).start(torch.eye(3))
    >>> torch.equal(DoRA(2).weight(torch.eye(3), p), torch.eye(3))
    True
    """

    rank: Count = 4
    scale: Positive = 1.0

    def start(self, w: Tensor) -> dict[str, Tensor]:
        return low_rank_start(w, self.rank, "DoRA") | {"length": torch.linalg.vector_norm(w, dim=1)}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        v = torch.addmm(w, p["up"], p["down"], alpha=self.scale)
        size = torch.linalg.vector_norm(v, dim=1).clamp(min=torch.finfo(v.dtype).tiny)
        return v * (p["length"] / size)[:, None]


@dataclass(frozen=True)
class AdapterBias(Delta):
    """One shift of the outputs of a layer, with a strength that is linear in its input; LoRA of rank 1 with a bias.

    y' = W x + b + (a.x + a0) u,  u zero at first
    Source: Fu et al. 2022, "AdapterBias" (arXiv 2205.00305).

    >>> AdapterBias().bias(torch.zeros(2), torch.zeros(2, 2), {"up": torch.ones(2, 1), "offset": torch.ones(1)})
    tensor([1., 1.])
    """

    moves_bias: ClassVar[bool] = True

    def start(self, w: Tensor) -> dict[str, Tensor]:
        return low_rank_start(w, 1, "AdapterBias") | {"offset": w.new_zeros(1)}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return torch.addmm(w, p["up"], p["down"])

    def bias(self, b: Tensor, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return b + p["up"] @ p["offset"]


@dataclass(frozen=True)
class Hydra(Delta):
    """A branch of low rank beside a layer, and one after it.

    W' = W + B A + D C W,  b' = b + D C b,  B and D zero at first
    The change has at most the rank ``rank + after``: a LoRA of this rank can be the same.
    Source: Kim et al. 2023, "Hydra: Multi-head Low-rank Adaptation" (arXiv 2309.06922).

    >>> sorted(Hydra(1, 2).start(torch.zeros(3, 4)))
    ['after_down', 'after_up', 'down', 'up']
    """

    rank: Count = 2
    after: Count = 2  # rank of the branch on the output of the layer
    moves_bias: ClassVar[bool] = True

    def start(self, w: Tensor) -> dict[str, Tensor]:
        second = low_rank_start(w.new_zeros(len(w), len(w)), self.after, "Hydra")
        return low_rank_start(w, self.rank, "Hydra") | {f"after_{name}": v for name, v in second.items()}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return w + p["up"] @ p["down"] + p["after_up"] @ (p["after_down"] @ w)

    def bias(self, b: Tensor, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return b + p["after_up"] @ (p["after_down"] @ b)


@dataclass(frozen=True)
class Principal(Delta):
    """LoRA that starts at the largest or smallest singular components of the weight (PiSSA, MiLoRA).

    W' = W - B0 A0 + B A,  B0 = U_r S_r^1/2, A0 = S_r^1/2 V_r^T of W = U S V^T
    ``networks.adapters.starts.oriented`` takes the components for the inputs of data instead (CorDA).
    Source: Meng et al. 2024, "PiSSA" (arXiv 2404.02948); Wang et al. 2024, "MiLoRA" (arXiv 2406.09044).

    >>> w = torch.eye(3)
    >>> bool((Principal(2).weight(w, Principal(2).start(w)) - w).abs().max() < 1e-6)
    True
    """

    rank: Count = 4
    largest: bool = True  # components; the smallest keep what the network knows

    def start(self, w: Tensor) -> dict[str, Tensor]:
        low_rank_start(w, self.rank, "Principal")  # refuses a rank above the layer's
        u, sizes, v = torch.linalg.svd(w, full_matrices=False)
        chosen = slice(0, self.rank) if self.largest else slice(len(sizes) - self.rank, None)
        root = sizes[chosen].sqrt()
        up, down = u[:, chosen] * root, root[:, None] * v[chosen]
        return {"up": up, "down": down, "_up": up.clone(), "_down": down.clone()}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return w + torch.cat([p["up"], -p["_up"]], 1) @ torch.cat([p["down"], p["_down"]])


@dataclass(frozen=True)
class Hadamard(Delta):
    """The entrywise product of two changes of low rank (LoHa).

    W' = W + (B1 A1) * (B2 A2),  B2 zero at first; its rank is up to rank^2
    Source: Hyeon-Woo et al. 2021, "FedPara" (arXiv 2108.06098); LyCORIS (arXiv 2309.14859).

    >>> len(Hadamard(2).start(torch.zeros(3, 4)))
    4
    """

    rank: Count = 2

    def start(self, w: Tensor) -> dict[str, Tensor]:
        p = low_rank_start(w, self.rank, "Hadamard") | {
            f"second_{name}": v for name, v in low_rank_start(w, self.rank, "Hadamard").items()
        }
        nn.init.normal_(p["up"], std=0.1)
        return p

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return w + (p["up"] @ p["down"]) * (p["second_up"] @ p["second_down"])


def as_low_rank(d: Tensor, rank: int) -> dict[str, Tensor]:
    """The numbers of a LoRA of scale 1 nearest to a change ``d``."""
    near = factored(d, min(rank, *d.shape))
    return {"up": near.up, "down": near.down}
