"""Optimal transport couplings: entropic, unbalanced, stable, immiscible, conditional, and of a whole data set."""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Coupling, Source
from beeline.core.ranges import NonNegative, Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, leaves, take
from beeline.couplings.basic import MinibatchOT, ot_within_labels, solve_assignment, source_points, squared_cost
from beeline.couplings.sources import Gaussian


@dataclass(frozen=True)
class Sinkhorn:
    """Entropic optimal transport within the batch; each datum samples its source point from the plan.

    P minimising <P, C> - epsilon H(P) with uniform marginals,  C = |x0_i - x1_j|^2;  x0 of datum j ~ P(. | j)
    Assumes no conditions, or ``biased``.  epsilon to infinity is Independent(), to 0 MinibatchOT().  The unit of
    epsilon is the mean cost with ``relative``, else the squared data unit (2 sigma^2 for the Schroedinger bridge).
    Source: Pooladian et al. 2023 (arXiv 2304.14772), BatchEOT; Cuturi 2013 (arXiv 1306.0895).

    >>> x = torch.tensor([[0.0], [9.0]])
    >>> Sinkhorn()(Batch(x, x0=x.flip(0)), Rng(0)).x0.flatten()
    tensor([0., 9.])
    """

    source: Source = field(default_factory=Gaussian)
    epsilon: float = 0.05  # entropic regularisation, above 0
    iterations: int = 100  # Sinkhorn iterations; 50 to 1000
    relative: bool = True  # epsilon in units of the mean cost
    biased: bool = False  # match across conditions
    independent = False

    def __post_init__(self) -> None:
        require(
            self.epsilon > 0 and self.iterations >= 1,
            f"Sinkhorn got epsilon={self.epsilon}, iterations={self.iterations}; the algorithm needs a positive "
            "regularisation: set epsilon > 0 and iterations >= 1, or use MinibatchOT() for the exact plan",
        )

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        x0 = unconditional_source_points(self, batch, rng)
        plan = self.plan(squared_cost(x0, batch.x1))
        return replace(batch, x0=x0[sample_columns(plan.T, rng.fork("plan"))])

    def plan(self, cost: Tensor) -> Tensor:
        """The entropic plan [N,N] of a cost matrix; its entries sum to 1."""
        return sinkhorn_plan(cost, self.epsilon * (float(cost.mean()) if self.relative else 1.0), self.iterations, 1.0)


@dataclass(frozen=True)
class Unbalanced:
    """Unbalanced entropic optimal transport: data far from all source points get a lower weight.

    P minimising <P, C> - epsilon H(P) + reach KL(marginals | uniform);  weight_j = N sum_i P_ij / sum P
    Assumes that outliers in the data should be down-weighted; the learned distribution differs from that of the data.
    Source: Eyring et al. 2024, "Unbalancedness in Neural Monge Maps" (arXiv 2311.15100).

    >>> x = torch.tensor([[0.0], [0.1], [50.0]])
    >>> bool(Unbalanced(reach=0.1)(Batch(x, x0=x / 10), Rng(0)).weight[2] < 0.1)
    True
    """

    source: Source = field(default_factory=Gaussian)
    epsilon: float = 0.05  # entropic regularisation in units of the mean cost, above 0
    reach: Annotated[float, Range(above=0, inf=True)] = 1.0  # penalty of the marginals, in mean costs; inf: Sinkhorn
    iterations: int = 100
    biased: bool = False  # match across conditions
    independent = False

    def __post_init__(self) -> None:
        require(
            self.epsilon > 0 and self.reach > 0 and self.iterations >= 1,
            f"Unbalanced got epsilon={self.epsilon}, reach={self.reach}, iterations={self.iterations}; all must be "
            "above 0: 0.05, 1 and 100 are usual",
        )

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        x0 = unconditional_source_points(self, batch, rng)
        plan = self.plan(squared_cost(x0, batch.x1))
        mass = (plan.sum(0) * len(x0) / plan.sum()).to(batch.x1)
        weight = mass if batch.weight is None else mass * batch.weight
        return replace(batch, x0=x0[sample_columns(plan.T, rng.fork("plan"))], weight=weight)

    def plan(self, cost: Tensor) -> Tensor:
        """The unbalanced plan [N,N] of a cost matrix."""
        mean = float(cost.mean())
        exponent = 1 / (1 + self.epsilon / self.reach)
        return sinkhorn_plan(cost, self.epsilon * mean, self.iterations, exponent)


@dataclass(frozen=True)
class StableMatching:
    """Stable matching within the batch: no source point and datum both prefer each other to their partners.

    the matching without a pair (i, j) closer than both i and j are to their partners;  greedy by distance
    Assumes no conditions, or ``biased``.
    Source: Pooladian et al. 2023 (arXiv 2304.14772), stable coupling; Gale and Shapley 1962.

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> StableMatching()(Batch(x, x0=x.flip(0)), Rng(0)).x0.flatten()
    tensor([0., 1.])
    """

    source: Source = field(default_factory=Gaussian)
    biased: bool = False  # match across conditions
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        x0 = unconditional_source_points(self, batch, rng)
        cost = squared_cost(x0, batch.x1)
        n = len(x0)
        order = [-1] * n
        taken = [False] * n
        left = n
        for flat in cost.flatten().argsort(stable=True).tolist():
            i, j = divmod(flat, n)
            if not taken[i] and order[j] < 0:
                order[j], taken[i], left = i, True, left - 1
                if not left:
                    break
        return replace(batch, x0=x0[torch.tensor(order)])


@dataclass(frozen=True)
class Immiscible:
    """Assignment of noise to data by distance within the batch (immiscible diffusion).

    permutation p minimising sum_i |x0_p(i) - x1_i|;  MinibatchOT uses the squared distance
    Assumes no conditions, or ``biased``.
    Source: Li et al. 2024, "Immiscible Diffusion" (arXiv 2406.12303); Liu et al. 2024 (arXiv 2410.12266).

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> Immiscible()(Batch(x, x0=x.flip(0)), Rng(0)).x0.flatten()
    tensor([0., 1.])
    """

    source: Source = field(default_factory=Gaussian)
    biased: bool = False  # match across conditions
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        x0 = unconditional_source_points(self, batch, rng)
        cost = squared_cost(x0, batch.x1).clamp(min=0).sqrt()
        return replace(batch, x0=x0[solve_assignment(cost)])


@dataclass(frozen=True)
class ConditionalOT:
    """Optimal transport that keeps noise and condition independent, by a cost term between shuffled conditions.

    permutation minimising sum |x0_p(i) - x1_i|^2 + strength |c_p(i) - c_i|^2,  c_j a permutation of the conditions
    Assumes one condition, discrete (compared for equality) or a vector.  strength to infinity matches within equal
    conditions; 0 is MinibatchOT(biased=True).
    Source: Cheng and Schwing 2025, "The Curse of Conditions" (arXiv 2503.10636).

    >>> batch = Batch(torch.tensor([[0.0], [1.0]]), x0=torch.tensor([[1.0], [0.0]]), cond=torch.tensor([0, 0]))
    >>> ConditionalOT()(batch, Rng(0)).x0.flatten()
    tensor([0., 1.])
    """

    source: Source = field(default_factory=Gaussian)
    by: str = ""  # name of the condition; "" if there is only one
    strength: NonNegative = 10.0  # cost of unequal conditions, in mean costs
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        conditions = dict(leaves(batch.cond))
        by = next(iter(conditions)) if not self.by and len(conditions) == 1 else self.by
        require(
            by in conditions,
            f"ConditionalOT got by={self.by!r}, but the batch has the conditions {sorted(conditions)}; set by to the "
            "name of one of them, or use MinibatchOT() for a batch without conditions",
        )
        others = sorted(conditions.keys() - {by})
        require(
            not others,
            f"ConditionalOT got by={by!r} and a batch with further conditions {others}; matching makes the noise "
            "depend on those, which sampling does not reproduce: remove them, or use Independent()",
        )
        x0 = source_points(self, batch, rng)
        cond = conditions[by].cpu()
        own = cond[rng.fork("condition").permutation(len(x0))]
        if cond.is_floating_point():
            apart = squared_cost(own, cond)
            apart = apart / apart.mean().clamp(min=1e-12)
        else:
            apart = (own.reshape(len(own), 1, -1) != cond.reshape(1, len(cond), -1)).any(-1).double()
        cost = squared_cost(x0, batch.x1)
        total = cost + self.strength * cost.mean() * apart
        return replace(batch, x0=x0[solve_assignment(total)])


@dataclass(frozen=True)
class Remembered:
    """A fixed source point per datum, from one assignment of the whole data set, for all epochs.

    x0 of datum i = noise[i], as computed by ``assign_dataset``
    Assumes data with their index as the condition ``by``, which is removed from the batch; or, without ``noise``, pairs
    created by ``stored``, as in a run.
    Source: Li et al. 2024, "Immiscible Diffusion" (arXiv 2406.12303), with a fixed assignment.

    >>> coupling = Remembered(torch.tensor([[5.0], [6.0]]))
    >>> coupling(Batch(torch.zeros(1, 1), cond={"index": torch.tensor([1])}), Rng(0))
    Batch(x1=tensor([[0.]]), x0=tensor([[6.]]), cond=None, weight=None)
    """

    noise: Tensor = field(default_factory=lambda: torch.zeros(0, 1))  # [N,*S], row i is the source point of datum i
    by: str = "index"  # name of the condition with the index of a datum
    independent = False

    def stored(self, batch: Batch, rng: Rng) -> Batch:
        """The data set with the assigned source points as x0; its own x0 are reordered if it has them."""
        if len(self.noise):
            return batch
        return replace(
            batch,
            x0=assign_dataset(
                batch.x1, rng, ot_within_labels(batch.cond, Gaussian()), x0=batch.x0, cond=batch.cond
            ).noise,
        )

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        if batch.x0 is not None and not len(self.noise):
            return batch
        conditions = dict(leaves(batch.cond))
        require(
            isinstance(batch.cond, dict) and self.by in conditions,
            f"Remembered got a batch with the conditions {sorted(conditions)}; it needs the index of every datum: add "
            f"it as the condition {self.by!r}",
        )
        index = conditions[self.by].long().cpu()
        require(
            bool((index >= 0).all()) and bool((index < len(self.noise)).all()),
            f"Remembered got the index {int(index.max())}, but its assignment has {len(self.noise)} rows; it was "
            "computed for other data: call assign_dataset(...) on these data",
        )
        assert isinstance(batch.cond, dict)
        rest: Any = {k: v for k, v in batch.cond.items() if k != self.by} or None
        return replace(batch, x0=self.noise[index].to(batch.x1), cond=rest)


def assign_dataset(
    x1: Tensor,
    rng: Rng,
    coupling: Coupling | None = None,
    size: int = 1024,
    x0: Tensor | None = None,
    cond: Cond = None,
) -> Remembered:
    """Assign a source point to every datum of a data set [N,*S], in random chunks of ``size`` data.

    ``x0`` [N,*S] are the source points to assign; without them the coupling samples its source.  ``cond`` are the
    conditions of the data.

    >>> assign_dataset(torch.zeros(3, 2), Rng(0)).noise.shape
    torch.Size([3, 2])
    """
    noise = torch.empty_like(x1)
    order = rng.fork("chunks").permutation(len(x1))
    for k, rows in enumerate(order.split(size)):
        chunk = (coupling or MinibatchOT())(take(Batch(x1, x0, cond), rows), rng.fork("chunk", k))
        assert chunk.x0 is not None
        noise[rows] = chunk.x0
    return Remembered(noise)


def unconditional_source_points(coupling: Any, batch: Batch, rng: Rng) -> Tensor:
    """The source points of a batch; raises ValueError for a batch with conditions unless the coupling is biased."""
    conditions = dict(leaves(batch.cond))
    require(
        not conditions or coupling.biased,
        f"{type(coupling).__name__} got a batch with the conditions {sorted(conditions)}; matching across them makes "
        "the noise depend on the condition, which sampling does not reproduce: use MinibatchOT(by=NAME) or "
        "ConditionalOT(by=NAME), or set biased=True",
    )
    return source_points(coupling, batch, rng)


def sinkhorn_plan(cost: Tensor, epsilon: float, iterations: int, exponent: float) -> Tensor:
    """exp((f_i + g_j - C_ij)/epsilon) [N,N] with uniform marginals (``exponent`` 1) or relaxed ones (below 1)."""
    kernel = -cost / epsilon
    if float(kernel.min()) > -600:  # far from underflow: products instead of logarithms, ten times as fast
        kernel = kernel.exp()
        u, v = cost.new_ones(len(cost)), cost.new_ones(len(cost))
        for _ in range(iterations):
            u = (1 / (len(cost) * (kernel @ v))) ** exponent
            v = (1 / (len(cost) * (kernel.T @ u))) ** exponent
        plan = u[:, None] * kernel * v[None]
    else:
        even = -math.log(len(cost))
        f, g = cost.new_zeros(len(cost)), cost.new_zeros(len(cost))
        for _ in range(iterations):
            f = exponent * (even - torch.logsumexp(kernel + g[None], 1))
            g = exponent * (even - torch.logsumexp(kernel + f[:, None], 0))
        plan = (kernel + f[:, None] + g[None]).exp()
    require(
        bool(plan.isfinite().all()) and float(plan.sum()) > 0,
        f"the entropic plan is not finite at epsilon = {epsilon:.3g}; it underflows for the range of these costs: "
        "increase epsilon, or use MinibatchOT()",
    )
    off = float((plan.sum(1) * len(plan) - 1).abs().max()) if exponent == 1 else 0.0
    require(
        off < 0.1,
        f"the entropic plan has a marginal error of {off:.0%} after {iterations} iterations at epsilon = "
        f"{epsilon:.3g}; the noise would not have the distribution of the source: increase iterations or epsilon, or "
        "use MinibatchOT() for the exact plan",
    )
    return plan


def sample_columns(rows: Tensor, rng: Rng) -> Tensor:
    """One column index per row of a plan [N,M], sampled in proportion to the entries of the row; [N]."""
    cut = rows.cumsum(1)
    u = rng.uniform(len(rows), cut[:, 0])[:, None] * cut[:, -1:]
    return torch.searchsorted(cut.contiguous(), u.contiguous(), right=True)[:, 0].clamp(max=rows.shape[1] - 1)
