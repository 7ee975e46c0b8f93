"""Search by comparing finished samples."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import dataclass
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Call
from beeline.sampling.search.candidates import Search, lowest, picked, tiled_cond
from beeline.sampling.steering.controller import energies_of


@dataclass(frozen=True)
class Finished(Search):
    """Base of searches that compare finished samples; a subclass gives ``_chosen``."""

    def _search(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        wide = tiled_cond(cond, self.candidates)
        x1 = self._own(self.candidates)(flow, self.starts(flow, x0), wide, watch=call.watch, done=call.done)
        return picked(x1, self._chosen(x1, wide, x0))

    def _chosen(self, x1: Tensor, cond: Cond, x0: Tensor) -> Tensor:
        """The index [B] of the best candidate among ``x1`` [n*B,*S] for ``x0`` [B,*S]."""
        raise NotImplementedError

    @property
    def evaluations(self) -> int | None:
        one = super().evaluations
        return None if one is None else self.candidates * one


@dataclass(frozen=True)
class BestOf(Finished):
    """Best of n: the candidate with the lowest energy among n samples from different noise.

    x1 = argmin_k E(sampler(flow, x0_k)),  k = 1 .. n
    The energy needs no gradient.  The results are samples of the flow with a low energy, not a posterior: with more
    candidates they concentrate where the energy is lowest.
    Source: Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps"
    (arXiv 2501.09732), random search.

    >>> search = BestOf(1, energy=lambda x1, t, cond=None: x1.sum(1), candidates=16)
    >>> bool(search(Flow(lambda x, t: 0 * x), torch.zeros(1, 2)).sum() < 0)
    True
    """

    energy: Energy = field(kw_only=True)

    def _chosen(self, x1: Tensor, cond: Cond, x0: Tensor) -> Tensor:
        return lowest(energies_of(self.energy, x1, x1.new_ones(len(x1)), cond).unflatten(0, (-1, len(x0))))


@dataclass(frozen=True)
class ParetoBest(Finished):
    """Samples along the Pareto front of several energies: every sample has its own preference among them.

    x1 = argmin_k max_m w_m (E_m(x_k) - min_j E_m(x_j)) / (max_j E_m(x_j) - min_j E_m(x_j)),  w ~ U(simplex)
    The maximum (Chebyshev's) reaches the points of a front that no weighted sum has as its minimum.  A sample's
    preference is keyed by its seed.
    Source: Jain et al. 2023, "Multi-Objective GFlowNets" (arXiv 2210.12765), preferences over scalarised rewards.

    >>> ends = lambda x1, t, cond=None: x1.sum(1), lambda x1, t, cond=None: -x1.sum(1)
    >>> ParetoBest(1, energies=ends, candidates=4)(Flow(lambda x, t: 0 * x), torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """

    energies: tuple[Energy, ...] = field(kw_only=True)  # two or more

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.energies) >= 2,
            f"ParetoBest got {len(self.energies)} energies; a front is one of several: give two or more, or use BestOf",
        )

    def preferences(self, x0: Tensor) -> Tensor:
        """Preferences [B,M], non-negative with the sum one."""
        z = self.normal(x0.new_empty(len(x0), len(self.energies)), 1, "preference")
        share = -torch.special.ndtr(z).clamp(min=torch.finfo(z.dtype).tiny).log()
        return share / share.sum(1, keepdim=True)

    def _chosen(self, x1: Tensor, cond: Cond, x0: Tensor) -> Tensor:
        t = x1.new_ones(len(x1))
        values = torch.stack([energies_of(e, x1, t, cond) for e in self.energies], 1).unflatten(0, (-1, len(x0)))
        low, high = values.min(0).values, values.max(0).values  # [B,M]
        level = (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
        return lowest((self.preferences(x0) * level).max(-1).values)
