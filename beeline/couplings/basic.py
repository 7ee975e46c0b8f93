"""Couplings: which source point is joined to which datum."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Source
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, leaves
from beeline.couplings.sources import Gaussian


@dataclass(frozen=True)
class Independent:
    """A fresh source point for every datum.

    x0 ~ source, independent of x1
    Assumes nothing.
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
    """The pairs that the data bring: reflow pairs, or two aligned data sets.

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
            "this coupling needs pairs: the batch has no x0; make them with reflow_pairs(...), "
            "or take Independent() to draw fresh noise",
        )
        return batch


@dataclass(frozen=True)
class MinibatchOT:
    """Optimal transport within the batch, by assignment: every datum and every source point is used once.

    permutation p minimising sum_i |x0_p(i) - x1_i|^2
    Assumes even weights (the noise near heavy data would count more), and no conditions, or ``by`` a discrete one:
    matching across conditions would make the source depend on the condition while learning but not while sampling, so
    that is refused unless ``biased`` says that it is meant.
    Source: Pooladian et al. 2023, "Multisample Flow Matching" (arXiv 2304.14772);
    Tong et al. 2024 (arXiv 2302.00482).

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> MinibatchOT()(Batch(x, x0=x.flip(0)), Rng(0)).x0.flatten()
    tensor([0., 1.])
    """

    source: Source = field(default_factory=Gaussian)
    by: str | None = None  # name of a discrete condition, matched only within equal values ("" for a bare tensor)
    biased: bool = False  # match across conditions all the same
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        conditions = dict(leaves(batch.cond))
        require(
            not conditions or self.biased or self.by is not None,
            f"optimal transport with the conditions {sorted(conditions)} would tie the noise to the condition, which "
            "sampling does not know; match within equal values with by=NAME, or say biased=True",
        )
        x0 = source_points(self, batch, rng)
        order = torch.arange(len(x0))
        if self.by is None:
            return replace(batch, x0=x0[assign(x0, batch.x1)])
        require(
            self.by in conditions,
            f"MinibatchOT matches by {self.by!r}, but the batch has the conditions {sorted(conditions)}; name one",
        )
        others = sorted(conditions.keys() - {self.by})
        require(
            not others or self.biased,
            f"optimal transport within equal {self.by!r} would tie the noise to the other conditions {others}, which "
            "sampling does not know; leave them out, take ConditionalOT or Independent, or say biased=True",
        )
        leaf = conditions[self.by]
        require(
            not leaf.is_floating_point(),
            f"MinibatchOT matches within equal values of {self.by!r}, but that condition is continuous "
            f"({leaf.dtype}): hardly two of its values are equal, so that nothing would be matched; take "
            f"ConditionalOT(by={self.by!r}), which matches by distance in the condition, or whole numbers for classes",
        )
        _, group = leaf.flatten(1 if leaf.ndim > 1 else 0).unique(dim=0, return_inverse=True)
        for g in range(int(group.max()) + 1):
            rows = (group == g).nonzero().flatten().cpu()
            order[rows] = rows[assign(x0[rows], batch.x1[rows])]
        return replace(batch, x0=x0[order])


@dataclass(frozen=True)
class PairedOrOT:
    """The pairs that the data bring, or where they bring none, optimal transport within equal labels of the batch.

    (x0, x1) as stored, else MinibatchOT(by = the label where there is one)
    Assumes data with pairs, without conditions, or with one discrete condition.
    Source: none; a choice between Paired and MinibatchOT.

    >>> PairedOrOT()(Batch(torch.ones(2, 3), x0=torch.zeros(2, 3)), Rng(0)).x0.sum()
    tensor(0.)
    """

    source: Source = field(default_factory=Gaussian)  # of data without pairs
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        if batch.x0 is not None:
            return batch
        return ot_within_labels(batch.cond, self.source)(batch, rng)


def ot_within_labels(cond: Cond, source: Source) -> MinibatchOT:
    """Optimal transport within equal labels where there is a label; other conditions are refused when it is used."""
    labels = [name for name, leaf in leaves(cond) if not leaf.is_floating_point()]
    return MinibatchOT(source, by=labels[0] if len(labels) == 1 else None)


def source_points(coupling: Any, batch: Batch, rng: Rng) -> Tensor:
    """The source points to be matched with a batch: those that it brings, or fresh ones."""
    x0: Tensor = coupling.source.sample(batch.x1, rng) if batch.x0 is None else batch.x0
    require(
        len(batch.x1) > 0 and len(x0) == len(batch.x1),
        f"{type(coupling).__name__} got {len(x0)} source points for {len(batch.x1)} data; it joins them one to one: "
        "give equal numbers, at least one",
    )
    return x0


def squared_cost(x0: Tensor, x1: Tensor) -> Tensor:
    """|x0_i - x1_j|^2 [N,M], float64 on the CPU (inner products in float32 for short data); refused if not finite."""
    require(
        x0.shape[1:] == x1.shape[1:],
        f"a cost between shapes {tuple(x0.shape[1:])} and {tuple(x1.shape[1:])} was asked for; "
        "both ends of a coupling have one shape",
    )
    # products in float64 would cost more than the assignment itself; centred data lose nothing
    wide = torch.float64 if torch.float64 in (x0.dtype, x1.dtype) else torch.float32
    a, b = x0.detach().flatten(1).cpu(), x1.detach().flatten(1).cpu()
    if len(a) and (a.mean(0) - b.mean(0)).abs().max() > 10 * (a.std() + b.std()):
        wide = torch.float64  # far apart, where the differences of costs are small beside the costs
    a, b = a.to(wide), b.to(wide)
    middle = (a.mean(0) + b.mean(0)) / 2
    a, b = a - middle, b - middle
    cost = torch.addmm((a * a).sum(1)[:, None] + (b * b).sum(1)[None], a, b.T, alpha=-2).double()
    require(
        bool(cost.isfinite().all()),
        "the transport cost is not finite: source or data hold NaN or infinite values; remove them before coupling",
    )
    return cost


def assign(x0: Tensor, x1: Tensor) -> Tensor:
    """[N] indices into x0: the cheapest one-to-one matching to x1 in squared distance (Hungarian method)."""
    require(
        len(x0) == len(x1),
        f"an assignment needs as many source points as data, got {len(x0)} and {len(x1)}; give equal numbers",
    )
    return solve_assignment(squared_cost(x0, x1))


def solve_assignment(cost: Tensor) -> Tensor:
    """[N] rows of a cost [N,N], the one that each column is matched to by the cheapest assignment."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and only optimal transport needs it

    require(
        bool(cost.isfinite().all()),
        f"{int((~cost.isfinite()).sum())} of {cost.numel()} costs of the assignment are not finite, so that no "
        "matching is the cheapest; remove NaN and infinite values from data and conditions before coupling",
    )
    return torch.from_numpy(linear_sum_assignment(cost.T.numpy())[1])
