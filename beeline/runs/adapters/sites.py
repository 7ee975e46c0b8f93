"""What a file of an adapter holds for one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.networks.adapters.factors import Factors


class Site(Protocol):
    """The change of one layer, with weights flattened to [out,in]."""

    @property
    def method(self) -> str:
        """The name of the kind of change."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        ...

    @property
    def rank(self) -> int | None:
        """The rank that the file gives; None where it has none."""
        ...

    def change(self, w: Tensor) -> Tensor:
        """W' - W [out,in] for the weight ``w``."""
        ...


@dataclass(frozen=True, eq=False)
class LowRankSite:
    """W' = W + scale up down."""

    factors: Factors
    scale: float = 1.0
    alpha: float | None = None  # as in the file
    kernel: tuple[int, ...] = ()  # of a convolution
    method: ClassVar[str] = "LoRA"

    @property
    def shape(self) -> tuple[int, int]:
        return self.factors.shape

    @property
    def rank(self) -> int:
        return self.factors.rank

    @property
    def baked(self) -> Factors:
        """The change with the scale in ``up``."""
        return self.factors if self.scale == 1 else self.factors.scaled(self.scale)

    def change(self, w: Tensor) -> Tensor:
        return self.baked.dense()


@dataclass(frozen=True, eq=False)
class ScaledRows(LowRankSite):
    """W' = length V / |V| of V = W + scale up down, by rows or by columns."""

    length: Tensor = torch.empty(0)  # [out,1] or [1,in]
    method: ClassVar[str] = "DoRA"

    @property
    def by_rows(self) -> bool:
        """Whether every output has a length."""
        return self.length.shape[1] == 1

    def change(self, w: Tensor) -> Tensor:
        v = w + self.baked.dense()
        return v * (self.length / torch.linalg.vector_norm(v, dim=1 if self.by_rows else 0, keepdim=True)) - w


@dataclass(frozen=True, eq=False)
class DenseSite:
    """W' = W + change; ``method`` is that of the file, such as LoHa."""

    value: Tensor
    rank: int | None = None
    method: str = "difference"

    @property
    def shape(self) -> tuple[int, int]:
        return self.value.shape[0], self.value.shape[1]

    def change(self, w: Tensor) -> Tensor:
        return self.value


def site_of(path: str, parts: Mapping[str, Tensor], scale: float | None, rs: bool = False) -> Site:
    """The change of one layer from its tensors by role.

    ``scale`` is alpha where the file or its header gives it apart from the tensors.  Raises ValueError for roles that
    are not known, and for factors that do not fit one another.
    """
    parts = {role: t.float() for role, t in parts.items()}
    alpha = float(parts.pop("alpha")) if "alpha" in parts else scale
    roles = set(parts)
    if {"up", "down"} <= roles and roles <= {"up", "down", "length"}:
        up, down = parts["up"].flatten(1), parts["down"].flatten(1)
        require(
            up.shape[1] == len(down),
            f"the factors of {path!r} have shapes {tuple(up.shape)} and {tuple(down.shape)}; up is [out,rank] and down "
            "[rank,in]"
            + (": they were swapped, write each under the name of the other" if len(up) == down.shape[1] else ""),
        )
        factor = _factor(alpha, len(down), rs)
        kernel = tuple(parts["down"].shape[2:])
        if "length" not in parts:
            return LowRankSite(Factors(up, down), factor, alpha, kernel)
        length = parts["length"].flatten()
        by_rows = parts["length"].ndim < 2 or parts["length"].shape[0] == len(up)
        return ScaledRows(Factors(up, down), factor, alpha, kernel, length[:, None] if by_rows else length[None])
    if {"w1_a", "w1_b", "w2_a", "w2_b"} == roles:
        rank = len(parts["w1_b"])
        first, second = parts["w1_a"] @ parts["w1_b"], parts["w2_a"] @ parts["w2_b"]
        return DenseSite(_factor(alpha, rank, rs) * first * second, rank, "LoHa")
    if roles and roles <= {"k1", "k1_a", "k1_b", "k2", "k2_a", "k2_b"}:
        first = parts["k1"] if "k1" in parts else parts["k1_a"] @ parts["k1_b"]
        second = parts["k2"] if "k2" in parts else parts["k2_a"] @ parts["k2_b"].flatten(1)
        ranks = [len(parts[name]) for name in ("k2_b", "k1_b") if name in parts]
        factor = _factor(alpha, ranks[0], rs) if ranks else 1.0
        second = second if second.ndim > 2 else second[..., None]
        product = torch.kron(first.view(*first.shape, *(1,) * (second.ndim - 2)), second).flatten(1)
        return DenseSite(factor * product, ranks[0] if ranks else None, "LoKr")
    if roles == {"difference"}:
        return DenseSite(parts["difference"].flatten(1))
    require(
        False,
        f"the layer {path!r} has {sorted(roles)}, which is no change that is read here; LoRA, DoRA, LoHa, LoKr and "
        "differences are: convert the file with the tool that wrote it",
    )
    raise AssertionError


def _factor(alpha: float | None, rank: int, rs: bool) -> float:
    """alpha / rank, alpha / sqrt(rank) for rsLoRA, and 1 without an alpha."""
    return 1.0 if alpha is None else alpha / (rank**0.5 if rs else rank)
