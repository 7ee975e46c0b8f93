"""Distillation by one call: a student flow from a bundle, a run or a bundle of the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from beeline.config import build as config
from beeline.core.errors import require
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.core.protocols.training import Distillation
from beeline.distillation.students import Reflow
from beeline.recipes.places import free
from beeline.runs import run as runs
from beeline.runs.budget import duration, fit_distillation
from beeline.runs.bundle import Bundle
from beeline.runs.run import Distilled
from beeline.runs.run_directory import ready
from beeline.training.config import Training
from beeline.training.plan import step_seconds

BEST = "auto"  # the method that is best after a tenth of the time


def distill(
    teacher: Bundle | str | Path,
    method: str | Distillation = "one-step",
    *,
    evaluations: int | None = None,
    budget: str | None = None,
    out: str | Path | None = None,
    device: Device = AUTO,
    training: Training | None = None,
    data: Any = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    measure: Callable[..., float] = step_seconds,
    **more: Any,
) -> Bundle:
    """Train a student of a flow that samples in fewer evaluations, and return its bundle.

    ``teacher``: a bundle, which is saved beside ``out``, or the directory of one, of a run, or hub:owner/name.
    ``method``: the name of a distillation of ``beeline list distillations``, with settings if wanted
    ("reflow", "OneStep(count=5000)"), or such an object; "auto" tries several for a tenth of ``budget`` each and
    continues the best.
    ``evaluations``: of the student's network for a sample; None is the default of the method.
    ``budget``: time for all of it, such as "5m", which sets the number of steps; without it ``training`` does, by
    default 2,000 steps.
    ``out``: directory of the run, by default the first free one of ``runs/distilled``, ``runs/distilled-2``, ...
    ``data``: a data set, where that of the teacher cannot be loaded any more.
    ``say`` is called with a line about what was chosen.  ``more``: ``resume``, ``fork``, ``parallel`` and ``log`` of
    ``runs.run.train``.

    Raises BeelineError for an unknown method, a teacher whose data are not known, and a budget that is too short.
    """
    if method == BEST:
        require(
            budget is not None and training is None,
            f"method={BEST!r} needs a time; give budget='30m', without training=",
        )
        assert budget is not None
        return _best(
            teacher, 1 if evaluations is None else evaluations, budget, out, device, data, seed, say, measure, more
        )
    how = method_of(method)
    if evaluations is not None:
        how = how.for_evaluations(evaluations)
    require(
        budget is None or training is None,
        "budget= and training= were given, but both set the number of steps; give one of them",
    )
    place = free("distilled") if out is None else Path(out)
    resume = bool(more.get("resume"))
    if not resume:
        ready(place, Distilled(str(place), how), resume=False)  # before anything is written and any time is spent
    run = Distilled(saved_teacher(teacher, place, data, resume), how, training or Training(), seed, data)
    if budget is not None:
        fitted = fit_distillation(run, duration(budget), resolve_device(device), measure=measure)
        run = fitted.run
        say(f"{run.training.steps:,} steps of {run.training.batch_size} data, {fitted.step_seconds:.3g} s each")
    return runs.train(run, place, device=device, **more)


def saved_teacher(teacher: Bundle | str | Path, place: Path, data: Any, resume: bool) -> str:
    """The directory of a teacher; a bundle in memory is saved beside the directory ``place`` of its student."""
    if not isinstance(teacher, Bundle):
        return str(teacher)
    where = place.parent / f"{place.name}-teacher"
    if not resume:
        require(
            data is not None or "data" in teacher.lineage,
            "the bundle does not record the data that it was trained on, whose conditions and shape a student needs; "
            "give them by data=, for example data=Digits()",
        )
        teacher.save(where)
    return str(where)


def _best(
    teacher: Any,
    evaluations: int,
    budget: str,
    out: Any,
    device: Device,
    data: Any,
    seed: int,
    say: Callable[[str], None],
    measure: Callable[..., float],
    more: dict[str, Any],
) -> Bundle:
    """The student of the method that is best after a tenth of the time."""
    from beeline.recipes.students.automatic import check_place, choose

    place, resume = free("distilled") if out is None else Path(out), bool(more.pop("resume", False))
    check_place(place, Distilled(str(place), Reflow()), resume)  # before the teacher is saved beside it
    where = saved_teacher(teacher, place, data, resume)

    def train(run: Distilled, out: Path, *, resume: bool, fork: Path | None) -> Bundle:
        return runs.train(run, out, resume=resume, fork=fork, device=device, **more)

    run = Distilled(where, Reflow(), Training(), seed, data)
    found = choose(run, evaluations, budget, place, train, device=device, resume=resume, say=say, measure=measure)
    return found.bundle


def method_of(method: str | Distillation) -> Distillation:
    """A distillation by its name, with settings if wanted, or as it is."""
    if not isinstance(method, str):
        return method
    text = method if "(" in method else config.lookup("distillations", method).__name__
    found: Distillation = config.parse(text, "distillations")
    return found
