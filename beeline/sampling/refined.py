"""Initial noise that a network refines, so that sampling without guidance gives guided samples."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.modes import check_together, deferred, eval_mode
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, map_cond
from beeline.fields.flow import Flow, bind
from beeline.sampling.sampler import Call, Sampler, check_rows


@dataclass(frozen=True)
class RefinedNoise(Sampler):
    """A sampler that refines its initial noise by one evaluation of a network.

    x1 = sampler(flow, x0 + g(x0, 0, cond), cond)
    The network g is a field, of which the evaluation at t = 0 is the change of the noise.  ``refined_pairs`` gives its
    data, and FlowMatching with coupling=Paired() and times=At(0.0) trains it.  Refined noise is not Gaussian, so that
    solvers that use a score are biased.
    Assumes a network that was trained for this flow and these conditions.
    Source: Ahn et al. 2024, "A Noise is Worth Diffusion Guidance" (arXiv 2412.03895); there the network is trained
    through the steps of sampling, here on pairs by inversion.

    >>> import torch
    >>> sampler = RefinedNoise(4, refiner=lambda x, t, cond=None: torch.ones_like(x))
    >>> sampler(Flow(lambda x, t: 0 * x), torch.zeros(1, 2))
    tensor([[1., 1.]])
    """

    refiner: Any = field(kw_only=True)  # a VelocityField

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            callable(self.refiner) and not is_map(self.refiner),
            f"RefinedNoise got the refiner {str(self.refiner)[:80]!r}; it is a field of states, times and conditions: "
            "pass a network in Python",
        )

    def _sample(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        require(
            call.start == 0 and call.end > 0 and not call.augmented,
            f"RefinedNoise got start={call.start}, end={call.end}, augmented={call.augmented}; it "
            "refines noise at t = 0: use a Sampler for the rest of a run, and for inversion",
        )
        return super()._sample(flow, self.refined(x0, cond), cond, call)

    def refined(self, x0: Tensor, cond: Cond = None) -> Tensor:
        """The refined noise [B,*S] of noise ``x0`` [B,*S]."""
        check_rows(cond, x0)
        check_together("the state", x0, self.refiner)
        here = map_cond(lambda leaf: leaf.to(x0.device), cond)
        with eval_mode(self.refiner), deferred():
            return x0 + bind(self.refiner, here)(x0, torch.zeros(len(x0), dtype=x0.dtype, device=x0.device))

    @property
    def evaluations(self) -> int | None:
        one = super().evaluations
        return None if one is None else one + 1
