"""Several networks with one base made into one: rules for the changes of every tensor."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng


class Merge(Protocol):
    """The change of one tensor from those of several networks, in float64, and their weights."""

    def __call__(self, changes: Sequence[Tensor], weights: Sequence[float], name: str) -> Tensor:
        """A change with the shape of each; ``name`` is that of the tensor."""
        ...


@dataclass(frozen=True)
class Sum:
    """The weighted sum of changes; a negative weight takes one away.

    D = sum_k w_k D_k
    Source: Ilharco et al. 2022, "Editing Models with Task Arithmetic" (arXiv 2212.04089).

    >>> Sum()([torch.ones(2), torch.ones(2)], [1.0, -0.5], "w")
    tensor([0.5000, 0.5000])
    """

    def __call__(self, changes: Sequence[Tensor], weights: Sequence[float], name: str) -> Tensor:
        return torch.stack([w * d for w, d in zip(weights, changes, strict=True)]).sum(0)


@dataclass(frozen=True)
class Average:
    """The weighted mean of changes, and so of the weights of networks.

    D = sum_k w_k D_k / sum_k w_k
    For small changes its samples are near the geometric mean of the distributions, not near their union.
    Source: Wortsman et al. 2022, "Model soups" (arXiv 2203.05482); Biggs et al. 2024, "Diffusion Soup" (arXiv
    2406.08431).

    >>> Average()([torch.zeros(2), torch.ones(2)], [1.0, 3.0], "w")
    tensor([0.7500, 0.7500])
    """

    def __call__(self, changes: Sequence[Tensor], weights: Sequence[float], name: str) -> Tensor:
        return Sum()(changes, [w / sum(weights) for w in weights], name)


@dataclass(frozen=True)
class Ties:
    """The mean of the large entries whose sign most of them have (TIES).

    D_i = mean of the w_k D_ki that are among the largest ``density`` of D_k and have the sign of their sum
    Source: Yadav et al. 2023, "TIES-Merging" (arXiv 2306.01708).

    >>> Ties(1.0)([torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 3.0])], [1.0, 1.0], "w")
    tensor([2., 2.])
    """

    density: Share = 0.2

    def __call__(self, changes: Sequence[Tensor], weights: Sequence[float], name: str) -> Tensor:
        kept = []
        for w, d in zip(weights, changes, strict=True):
            count = max(1, round(self.density * d.numel()))
            least = d.abs().flatten().kthvalue(d.numel() - count + 1).values
            kept.append(w * d * (d.abs() >= least))
        stack = torch.stack(kept)
        agree = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
        return (stack * agree).sum(0) / agree.sum(0).clamp(min=1)


@dataclass(frozen=True)
class Dare:
    """The weighted sum of changes of which random entries are dropped and the others are enlarged (DARE).

    D = sum_k w_k m_k D_k / (1 - drop),  m_k 0 with probability ``drop``; its mean is the sum
    Source: Yu et al. 2023, "Language Models are Super Mario" (arXiv 2311.03099).

    >>> Dare(0.0)([torch.ones(2)], [0.5], "w")
    tensor([0.5000, 0.5000])
    """

    drop: Share = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.drop < 1, "Dare got drop=1, which leaves nothing of any change; set a share below 1")

    def __call__(self, changes: Sequence[Tensor], weights: Sequence[float], name: str) -> Tensor:
        kept = [
            d * (Rng(self.seed).fork(name, k).fill(torch.empty_like(d)) >= self.drop) / (1 - self.drop)
            for k, d in enumerate(changes)
        ]
        return Sum()(kept, weights, name)


@dataclass(frozen=True)
class Orthogonal:
    """One change after another, each without its part in the main directions of those before (OPCM).

    M = U S V^T;  P = U^T D V with diagonal 0 and P[:k,:k] = 0;  M <- M + U P V^T;  the result is c M
    k is the number of singular values with the share ``alpha`` of their sum, and c gives the result the mean norm of
    the changes.  Tensors that are no matrices are added.
    Source: Tang et al. 2025, "Merging Models on the Fly Without Retraining" (arXiv 2501.09522).

    >>> d = torch.eye(3)
    >>> torch.allclose(Orthogonal()([d, d], [1.0, 1.0], "w"), d)
    True
    """

    alpha: Share = 0.5

    def __call__(self, changes: Sequence[Tensor], weights: Sequence[float], name: str) -> Tensor:
        scaled = [w * d for w, d in zip(weights, changes, strict=True)]
        made = scaled[0]
        for d in scaled[1:]:
            made = made + (d if d.ndim < 2 else beside(made.flatten(1), d.flatten(1), self.alpha).view_as(d))
        size = sum(float(d.norm()) for d in scaled) / len(scaled)
        return made * (size / max(float(made.norm()), torch.finfo(made.dtype).tiny))


def beside(m: Tensor, d: Tensor, alpha: float) -> Tensor:
    """The part of a matrix ``d`` beside the diagonal of the singular vectors of ``m`` and their first block."""
    u, sizes, v = torch.linalg.svd(m)
    k = int((sizes.cumsum(0) < alpha * sizes.sum()).sum()) + 1
    p = u.mT @ d @ v.mT
    p.diagonal().zero_()
    p[:k, :k] = 0
    return u @ p @ v


@dataclass(frozen=True)
class Slerp:
    """A point of the arc between two changes, with the norm between theirs.

    D = (sin((1 - a) o) D_1 / |D_1| + sin(a o) D_2 / |D_2|) / sin(o) times |D_1|^(1-a) |D_2|^a,  a = w_2 / (w_1 + w_2)
    o is the angle between them; for parallel ones it is a line.
    Source: Shoemake 1985, "Animating rotation with quaternion curves".

    >>> Slerp()([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])], [1.0, 1.0], "w")
    tensor([0.7071, 0.7071])
    """

    def __call__(self, changes: Sequence[Tensor], weights: Sequence[float], name: str) -> Tensor:
        require(
            len(changes) == 2, f"Slerp got {len(changes)} networks; an arc has two ends: give two, or use Average()"
        )
        (one, two), a = changes, weights[1] / sum(weights)
        sizes = [float(d.norm()) for d in changes]
        if min(sizes) == 0:
            return Average()(changes, weights, name)
        angle = math.acos(max(-1.0, min(1.0, float((one * two).sum()) / (sizes[0] * sizes[1]))))
        if math.sin(angle) < 1e-6:
            return Average()(changes, weights, name)
        first, second = (math.sin(share * angle) / math.sin(angle) for share in (1 - a, a))
        return (first * one / sizes[0] + second * two / sizes[1]) * sizes[0] ** (1 - a) * sizes[1] ** a


def merged_networks(
    base: nn.Module, networks: Sequence[nn.Module], merge: Merge | None = None, weights: Sequence[float] = ()
) -> nn.Module:
    """A network like ``base`` whose floating tensors are changed as those of several networks, merged by a rule (Sum).

    It is computed in float64.  Raises ValueError for networks with other tensors than the base.
    """
    merge, weights = merge or Sum(), list(weights) or [1.0] * len(networks)
    require(
        bool(networks) and len(weights) == len(networks),
        f"{len(weights)} weights were given for {len(networks)} networks; give one or more, and a weight of each",
    )
    first, states = base.state_dict(), [net.state_dict() for net in networks]
    for k, state in enumerate(states):
        other = [n for n in first if n not in state or state[n].shape != first[n].shape]
        require(
            not other and len(state) == len(first),
            f"network {k + 1} of {len(networks)} is no change of the base: "
            f"{other[:3] or sorted(set(state) - set(first))[:3]} differ in name or size; merge networks of one "
            "base, adapters first with merged()",
        )
    made = copy.deepcopy(base)
    made.load_state_dict({name: _merged(name, value, states, merge, weights) for name, value in first.items()})
    return made


def _merged(name: str, w: Tensor, states: Sequence[Mapping[str, Tensor]], merge: Merge, weights: list[float]) -> Tensor:
    if not w.is_floating_point():
        return w
    changes = [state[name].double() - w.double() for state in states]
    if not any(bool(d.any()) for d in changes):
        return w
    return (w.double() + merge(changes, weights, name)).to(w.dtype)


def fisher_merged(networks: Sequence[nn.Module], importance: Sequence[Mapping[str, Tensor]]) -> nn.Module:
    """The mean of networks, every entry weighted by its importance, such as its mean squared gradient.

    theta = sum_k F_k theta_k / sum_k F_k
    Source: Matena and Raffel 2021, "Merging Models with Fisher-Weighted Averaging" (arXiv 2111.09832).
    """
    made = copy.deepcopy(networks[0])
    with torch.no_grad():
        for name, p in made.named_parameters():
            shares = torch.stack([f[name].double() for f in importance]) + 1e-30
            values = torch.stack([net.get_parameter(name).double() for net in networks])
            p.copy_((shares * values).sum(0) / shares.sum(0))
    return made
