"""Guidance by the prediction at a noisier time."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from beeline.core.declared import for_branch, in_place_of, is_map
from beeline.core.errors import require
from beeline.core.ranges import Range, Share, dataclass
from beeline.core.types import Cond
from beeline.fields.flow import bind


@dataclass(frozen=True)
class PerturbedTime:
    """The same field under the same condition, evaluated as if the state were noisier.

    weak = v(x, t'),  t' = t (1 - amount (1 - t)^power)
    It needs no null condition and applies to unconditional flows, too.  The perturbation ends at the data.
    Source: Sadat et al. 2024, "No Training, No Problem: Rethinking Classifier-Free Guidance for Diffusion Models"
    (arXiv 2407.02687), time-step guidance; here the time is changed for the whole network and without noise.

    >>> import torch
    >>> weak, _ = PerturbedTime(0.5)(lambda x, t, cond=None: t, None)
    >>> weak(torch.zeros(1, 1), torch.tensor([0.5]))
    tensor([0.3750])
    """

    amount: Share = 0.1  # 0 is the strong prediction itself
    power: Annotated[float, Range(least=0)] = 1.0  # the larger, the earlier the perturbation fades

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        require(
            not is_map(field),
            "PerturbedTime got a flow map, whose two times belong together; use another reference",
        )
        own = for_branch(field)

        def weak(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            return bind(own, cond)(x, t * (1 - self.amount * (1 - t) ** self.power))

        return in_place_of(field, weak), cond
