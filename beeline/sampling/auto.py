"""The default sampler for a budget of evaluations, chosen by the solver benchmark."""

from __future__ import annotations

from beeline.core.errors import require
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.sampler import Sampler
from beeline.solvers.adaptive import Adaptive
from beeline.solvers.fitted.linear import Fitted
from beeline.solvers.fitted.presets import CURVED, PRESETS
from beeline.solvers.multistep import AdamsBashforth, UniPC
from beeline.solvers.runge_kutta import EULER, MIDPOINT
from beeline.times.schedules import Explicit


def auto_sampler(
    evaluations: int = 8,
    tolerance: float | None = None,
    *,
    path: AffinePath = Linear(),  # noqa: B008 - a frozen value
    independent: bool = False,
) -> Sampler:
    """A Sampler with at most ``evaluations`` field evaluations per sample, or with error control by ``tolerance``.

    up to 11 evaluations: Fitted weights and times, fitted to random mixtures;  above: UniPC with equal steps, or
    Adams-Bashforth if ``path``, the path of the flow, is not straight;  with a tolerance: Adaptive
    The fitted weights are those for the largest of 4, 6 and 8 evaluations within the budget; they are exact on
    straight trajectories.  ``independent`` is that of the flow: at 4 and 8 evaluations a flow of independent pairs,
    whose trajectories are curved, takes weights that are usually better on such a flow and not exact on a straight one.
    A fitted solver cannot invert.  ``fit_solver`` fits the weights to one flow.

    >>> auto_sampler(8).evaluations, auto_sampler(tolerance=1e-4).solver.rtol
    (8, 0.0001)
    """
    require(
        isinstance(evaluations, int) and evaluations >= 1,
        f"auto_sampler got evaluations={evaluations!r}; sampling needs at least one evaluation: set an integer from 1",
    )
    if tolerance is not None:
        return Sampler(1, solver=Adaptive(tolerance, tolerance))
    if evaluations > 11:
        return Sampler(evaluations, solver=UniPC(2) if isinstance(path, Linear) else AdamsBashforth(2))
    known = {n: p for n, p in (PRESETS | (CURVED if independent else {})).items() if n <= evaluations}
    if not known:
        return Sampler(1, solver=EULER if evaluations == 1 else MIDPOINT)
    preset = Fitted(*known[max(known)])
    return Sampler(max(known), Explicit(preset.times), preset)
