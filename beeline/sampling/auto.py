"""The sampler for a budget: the solver and the steps that the truth benchmark shows best."""

from __future__ import annotations

from beeline.core.errors import require
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.sampler import Sampler
from beeline.solvers.adaptive import Adaptive
from beeline.solvers.fitted import Fitted
from beeline.solvers.multistep import AdamsBashforth, UniPC
from beeline.solvers.presets import PRESETS
from beeline.solvers.runge_kutta import EULER, MIDPOINT
from beeline.times.schedules import Explicit


def auto_sampler(
    evaluations: int = 8,
    tolerance: float | None = None,
    *,
    path: AffinePath = Linear(),  # noqa: B008 - a frozen value
) -> Sampler:
    """A Sampler of at most ``evaluations`` evaluations, or of as many as a ``tolerance`` needs.

    up to 8 evaluations = Fitted weights and times, learned once on random mixtures for all flows;  beyond = UniPC on
    even steps, or Adams-Bashforth where ``path``, the flow's, is not straight;  with a tolerance = Adaptive
    Assumes a flow on the straight path, as it was trained; on a reflowed flow, whose trajectories are straight, the
    learned weights are worse than Euler, which is exact there.  What was chosen can be read on the Sampler.
    A fitted choice draws and does not invert; ``fit_solver`` does better for one flow.
    Source: none; benchmarks/presets.py learns the weights, benchmarks/truth.py compares them.

    >>> auto_sampler(8).evaluations, auto_sampler(tolerance=1e-4).solver.rtol
    (8, 0.0001)
    """
    require(
        isinstance(evaluations, int) and evaluations >= 1,
        f"auto_sampler got evaluations={evaluations!r}; a sampler takes at least one: give a whole number from 1",
    )
    if tolerance is not None:
        return Sampler(1, solver=Adaptive(tolerance, tolerance))
    if evaluations > max(PRESETS):
        return Sampler(evaluations, solver=UniPC(2) if isinstance(path, Linear) else AdamsBashforth(2))
    known = [n for n in PRESETS if n <= evaluations]
    if not known:
        return Sampler(1, solver=EULER if evaluations == 1 else MIDPOINT)
    times, rows, keep = PRESETS[max(known)]
    return Sampler(max(known), Explicit(times), Fitted(times, rows, keep))
