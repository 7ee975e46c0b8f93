"""Couplings of source points x0 [B,*S] and data x1 [B,*S] in a batch."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Source
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, leaves, take
from beeline.couplings.sources import Gaussian


@dataclass(frozen=True)
class Independent:
    """Independent coupling: x0 is sampled from the source for every datum.

    x0 ~ source, independent of x1
    Source: Lipman et al. 2023 (arXiv 2210.02747).

    >>> Independent()(Batch(torch.ones(2, 3)), Rng(0)).x0.shape
    torch.Size([2, 3])
    """

    source: Source = field(default_factory=Gaussian)
    independent = True

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        return replace(batch, x0=self.source.sample(batch.x1, rng))


@dataclass(frozen=True)
class Paired:
    """The pairs of the data: reflow pairs or two aligned data sets.

    (x0, x1) as stored
    Assumes that the batch has x0.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), reflow.

    >>> Paired()(Batch(torch.ones(2, 3), x0=torch.zeros(2, 3)), Rng(0)).x0.sum()
    tensor(0.)
    """

    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        require(
            batch.x0 is not None,
            "Paired got a batch without x0; it couples stored pairs only: create them with reflow_pairs(...), or use "
            "Independent() to sample x0",
        )
        return batch


@dataclass(frozen=True)
class MinibatchOT:
    """Optimal transport within the batch, by exact assignment.

    permutation p minimising sum_i |x0_p(i) - x1_i|^2
    Assumes uniform weights, and no conditions or one discrete condition ``by``.  Matching across conditions makes the
    source depend on the condition in training but not in sampling; it raises ValueError unless ``biased`` is set.
    Source: Pooladian et al. 2023, "Multisample Flow Matching" (arXiv 2304.14772);
    Tong et al. 2024 (arXiv 2302.00482).

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> MinibatchOT()(Batch(x, x0=x.flip(0)), Rng(0)).x0.flatten()
    tensor([0., 1.])
    """

    source: Source = field(default_factory=Gaussian)
    by: str | None = None  # name of a discrete condition; matches within equal values only ("" for a bare tensor)
    biased: bool = False  # match across conditions
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        conditions = dict(leaves(batch.cond))
        require(
            not conditions or self.biased or self.by is not None,
            f"MinibatchOT got a batch with the conditions {sorted(conditions)}; matching across them makes the noise "
            "depend on the condition, which sampling does not reproduce: set by=NAME to match within equal values, or "
            "biased=True",
        )
        x0 = source_points(self, batch, rng)
        order = torch.arange(len(x0))
        if self.by is None:
            return replace(batch, x0=x0[assign(x0, batch.x1)])
        require(
            self.by in conditions,
            f"MinibatchOT got by={self.by!r}, but the batch has the conditions {sorted(conditions)}; set by to the "
            "name of one of them",
        )
        others = sorted(conditions.keys() - {self.by})
        require(
            not others or self.biased,
            f"MinibatchOT got by={self.by!r} and a batch with further conditions {others}; matching makes the noise "
            "depend on those, which sampling does not reproduce: remove them, use ConditionalOT or Independent, or set "
            "biased=True",
        )
        leaf = conditions[self.by]
        require(
            not leaf.is_floating_point(),
            f"MinibatchOT got by={self.by!r}, a continuous condition ({leaf.dtype}); it matches within equal values, "
            f"of which there are hardly any: use ConditionalOT(by={self.by!r}), which matches by distance in the "
            "condition, or integer class labels",
        )
        _, group = leaf.flatten(1 if leaf.ndim > 1 else 0).unique(dim=0, return_inverse=True)
        for g in range(int(group.max()) + 1):
            rows = (group == g).nonzero().flatten().cpu()
            order[rows] = rows[assign(x0[rows], batch.x1[rows])]
        return replace(batch, x0=x0[order])


@dataclass(frozen=True)
class PairedOrOT:
    """The pairs of the data if there are any, else optimal transport within equal labels.

    (x0, x1) as stored, else MinibatchOT(by = the label if there is one)
    Assumes data with pairs, without conditions, or with one discrete condition.

    >>> PairedOrOT()(Batch(torch.ones(2, 3), x0=torch.zeros(2, 3)), Rng(0)).x0.sum()
    tensor(0.)
    """

    source: Source = field(default_factory=Gaussian)  # for data without pairs
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        if batch.x0 is not None:
            return batch
        return ot_within_labels(batch.cond, self.source)(batch, rng)


def ot_within_labels(cond: Cond, source: Source) -> MinibatchOT:
    """MinibatchOT within equal labels if the condition has exactly one discrete leaf, else across the batch."""
    labels = [name for name, leaf in leaves(cond) if not leaf.is_floating_point()]
    return MinibatchOT(source, by=labels[0] if len(labels) == 1 else None)


def source_points(coupling: Any, batch: Batch, rng: Rng) -> Tensor:
    """The source points [B,*S] to match with a batch: its x0, or samples of the coupling's source."""
    x0: Tensor = coupling.source.sample(batch.x1, rng) if batch.x0 is None else batch.x0
    require(
        len(batch.x1) > 0 and len(x0) == len(batch.x1),
        f"{type(coupling).__name__} got {len(x0)} source points for {len(batch.x1)} data; it matches them one to one: "
        "pass equal numbers, at least one",
    )
    return x0


def squared_cost(x0: Tensor, x1: Tensor) -> Tensor:
    """|x0_i - x1_j|^2 [N,M] in float64 on the CPU, with inner products in float32 unless an input is float64.

    Raises ValueError for unequal shapes of a datum and for costs that are not finite.
    """
    require(
        x0.shape[1:] == x1.shape[1:],
        f"squared_cost got data of shapes {tuple(x0.shape[1:])} and {tuple(x1.shape[1:])}; source and data must have "
        "the same shape: pass tensors [N,*S] and [M,*S]",
    )
    # products in float64 would take longer than the assignment; for centred data float32 is accurate enough
    wide = torch.float64 if torch.float64 in (x0.dtype, x1.dtype) else torch.float32
    a, b = x0.detach().flatten(1).cpu(), x1.detach().flatten(1).cpu()
    if len(a) and (a.mean(0) - b.mean(0)).abs().max() > 10 * (a.std() + b.std()):
        wide = torch.float64  # far apart: differences of costs are small compared with the costs
    a, b = a.to(wide), b.to(wide)
    middle = (a.mean(0) + b.mean(0)) / 2
    a, b = a - middle, b - middle
    cost = torch.addmm((a * a).sum(1)[:, None] + (b * b).sum(1)[None], a, b.T, alpha=-2).double()
    require(
        bool(cost.isfinite().all()),
        "the transport cost is not finite; source or data contain NaN or infinite values: remove them first",
    )
    return cost


def assign(x0: Tensor, x1: Tensor) -> Tensor:
    """Indices [N] into x0 of the one-to-one matching to x1 with the least squared distance (Hungarian method)."""
    require(
        len(x0) == len(x1),
        f"assign got {len(x0)} source points and {len(x1)} data; it matches them one to one: pass equal numbers",
    )
    return solve_assignment(squared_cost(x0, x1))


def solve_assignment(cost: Tensor) -> Tensor:
    """Row indices [N], one per column of a cost matrix [N,N], of the assignment with the least total cost."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and only optimal transport needs it

    require(
        bool(cost.isfinite().all()),
        f"{int((~cost.isfinite()).sum())} of {cost.numel()} costs of the assignment are not finite; it has no minimum: "
        "remove NaN and infinite values from data and conditions",
    )
    return torch.from_numpy(linear_sum_assignment(cost.T.numpy())[1])


def check_coupling(coupling: Any, batch: Batch, rng: Rng) -> None:
    """Refuse a coupling that samples its own source points for data with given ones."""
    some = take(batch, torch.arange(min(8, len(batch.x1))))
    assert some.x0 is not None
    x0 = coupling(some, rng).x0.flatten(1)
    given = some.x0.flatten(1)
    require(
        all((row == given).all(1).any() for row in x0),
        f"the data have source points, and {type(coupling).__name__} samples others, so that the flow would start from "
        "noise; set objective.coupling to Paired, PairedOrOT or MinibatchOT",
    )
