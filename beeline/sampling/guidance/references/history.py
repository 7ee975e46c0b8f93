"""Weak predictions from earlier evaluations of the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.ranges import Range, dataclass
from beeline.core.types import Cond
from beeline.sampling.guidance.skipping import one_time


@dataclass(frozen=True)
class History:
    """The mean of the earlier strong predictions of the same run, with weights that fall exponentially.

    weak_k = m_k,  m_(k+1) = memory m_k + (1 - memory) strong_k,  m_1 = strong_1
    Here k counts the evaluations of a run in their order.  The weak prediction costs no evaluation, and the first one
    is not guided.  Guidance adds a multiple of h dv/dt: at memory 0, Extrapolate(1.5) in uniform steps of EULER is the
    Adams-Bashforth solver of order 2.  Earlier predictions are constants when guidance is differentiated.
    Assumes that all samples have one time, as under solvers that are not parallel in time.
    Source: Sadat et al. 2026, "HiGS: History-Guided Sampling for Plug-and-Play Enhancement of Diffusion Models"
    (ICLR), without its projection, filter and schedule of weights, and for velocities.

    >>> from beeline.sampling.guidance.guide import Extrapolate, Guide
    >>> Guide(History(), Extrapolate(2.0)).calls(0.5)
    1
    """

    memory: Annotated[float, Range(least=0, below=1)] = 0.5  # 0 is the evaluation before alone

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        require(
            not is_map(field),
            "History got a flow map; its jumps differ in length, so that earlier predictions are no weaker ones: use "
            "another reference",
        )
        return field, cond

    def recall(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        known: list[Tensor] = []

        def weak(strong: Tensor, x: Tensor, t: Tensor) -> Tensor:
            one_time(t, "History")
            now = strong.detach()
            before = known[0] if known and known[0].shape == now.shape else None
            known[:] = [now if before is None else self.memory * before + (1 - self.memory) * now]
            return now if before is None else before

        return weak
