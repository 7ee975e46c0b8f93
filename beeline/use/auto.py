"""The sampler for a budget: the solver and the steps that the truth benchmark shows best."""

from __future__ import annotations

from beeline.core.adaptive import Adaptive
from beeline.core.fitted import Fitted
from beeline.core.multistep import UniPC
from beeline.core.schedule import Explicit
from beeline.core.solver import EULER, MIDPOINT
from beeline.core.types import require
from beeline.use.presets import PRESETS
from beeline.use.sampler import Sampler


def auto_sampler(evaluations: int = 8, tolerance: float | None = None) -> Sampler:
    """A Sampler of at most ``evaluations`` evaluations, or of as many as a ``tolerance`` needs.

    Up to 16 evaluations: multistep weights and times learned once, on random mixtures (benchmarks/presets.py), for all
    flows; beyond: UniPC on even steps.  With a tolerance: an adaptive solver, each sample for itself.  What was chosen
    can be read on the Sampler.  It draws; to invert, use an ordinary solver.  ``fit_solver`` does better for one flow.

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
        return Sampler(evaluations, solver=UniPC(2))
    known = [n for n in PRESETS if n <= evaluations]
    if not known:
        return Sampler(1, solver=EULER if evaluations == 1 else MIDPOINT)
    times, rows, keep = PRESETS[max(known)]
    return Sampler(max(known), Explicit(times), Fitted(times, rows, keep))
