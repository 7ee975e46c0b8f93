"""Named settings of reflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beeline.core.protocols.flows import Guidance
from beeline.distillation.finetune import PeRFlow
from beeline.distillation.fit_steps import Bellman
from beeline.distillation.students import Reflow
from beeline.objectives.losses.basic import Distance, Huber
from beeline.objectives.losses.distances import Combined, Perceptual
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.multistep import KeepNoise
from beeline.times.samplers import At, UShaped


def ImprovedReflow(  # noqa: N802 - a name of the field
    sampler: Sampler | None = None,
    count: int | None = None,
    features: Callable[[Any], Any] | None = None,
    a: float = 4.0,
    scale: float = 0.00054,
    steps: int = 1,
    **more: Any,
) -> Reflow:
    """The recipe with which one round of reflow suffices for one step.

    p(t) ~ cosh(a (t - 1/2));  pseudo-Huber distance of the velocities with c = scale D;  with ``features`` of the data
    t huber(v, u) + |f(x1_hat) - f(x1)|^2;  several steps use the first noise, x_s = s x1_hat + (1-s) x0
    ``more``: other settings of Reflow, such as ``reverse``, a share of real data by inversion, and ``store``.
    Assumes pairs of a teacher whose trajectories do not cross, as in high dimension.
    Source: Lee, Lin and Fanti 2024, "Improving the Training of Rectified Flows" (arXiv 2405.20320).

    >>> ImprovedReflow().times
    UShaped(a=4.0)
    """
    distance: Distance = Huber(scale)
    if features is not None:
        distance = Combined((Huber(scale), Perceptual(features, plain=0.0)))
    made = Sampler(50) if sampler is None else sampler
    return Reflow(made, count, times=UShaped(a), distance=distance, steps=steps, solver=KeepNoise(), **more)


def BellmanReflow(  # noqa: N802 - a name of the field
    steps: int = 4, fine: int = 60, inner: int = 8, guidance: Guidance | None = None
) -> PeRFlow:
    """Straightening of the steps of the grid that dynamic programming finds for the teacher.

    the grid of Bellman(fine);  v(x_t, t) at the nodes t of the grid is regressed on (x_s - x_t) / (s - t), with the
    teacher's ``inner`` steps from node t to node s
    Assumes the data of the teacher: states at the nodes are noised data, distributed as those of the teacher.
    Source: Nguyen et al. 2024, "Bellman Optimal Stepsize Straightening of Flow-Matching Models" (arXiv 2312.16414).

    >>> BellmanReflow(4).windows
    4
    """
    return PeRFlow(steps, inner, guidance=guidance or Plain(), times=At(0.0), fit=Bellman(fine))
