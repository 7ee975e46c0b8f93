"""Training by one call, from data in memory, a path or a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from beeline.config import build as config
from beeline.config.translation import read_description
from beeline.core.errors import BeelineError, require
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.recipes.automatic import recipe_for
from beeline.recipes.continuing import continuation
from beeline.recipes.hub_objects import hub_path
from beeline.recipes.in_memory import stored
from beeline.recipes.places import free
from beeline.runs import run as runs
from beeline.runs.budget import duration, fit_budget, side_for
from beeline.runs.bundle import Bundle
from beeline.runs.live.terminal import progress
from beeline.runs.run import Distilled, Run
from beeline.runs.run_directory import ready
from beeline.training.plan import step_seconds


def train(
    what: Any,
    labels: Any = None,
    *,
    out: str | Path | None = None,
    budget: str | None = None,
    device: Device = AUTO,
    say: Callable[[str], None] = lambda text: None,
    measure: Callable[..., float] = step_seconds,
    more: str | int | None = None,
    data: str | Path | None = None,
    **options: Any,
) -> Bundle:
    """Train a flow on data, on a path or by a run, and return its bundle.

    ``what``: points [N] or [N,D], images [N,H,W], [N,H,W,C] or [N,C,H,W] of 8 bits (uint8, or floats of the same 256
    levels in [0, 1] or [-1, 1]), or other arrays of numbers, as an array or tensor; a data frame of pandas, polars or
    Arrow; a finite Dataset or DataLoader of torch, whose items are read once; a Dataset, DatasetDict or IterableDataset
    of the library ``datasets``; the path of a file or folder, or the name of a data set of the hub; or a Run.
    A pair (data, labels) is the same as two arguments.
    ``labels``: whole numbers or text [N] beside an array: the condition ``label``, dropped in a tenth of the data so
    that guidance and unconditional sampling work.  Beside a data frame they become a column.
    ``out``: directory of the run, by default the first free one of ``runs/data``, ``runs/data-2``, ...  Data in memory
    are stored beside it, so that the run can be resumed, distilled and evaluated.
    ``budget``: time for all of it, such as "5m"; 30 minutes by default for data.  A Run is fitted to one if given.
    ``say`` is called with a line about each network that is tried, whose steps ``measure`` times.
    ``more``: steps, or a time such as "10m", by which the run in the directory ``what`` (or ``out``) is made longer,
    and ``data``: a file or data set that replaces its data.  See ``recipes.continuing.continuation``.
    ``options``: ``resume``, ``fork``, ``parallel``, ``log``, ``callbacks`` and ``live`` of ``runs.run.train``; a
    resumed run is read from ``out``.  Without ``log`` a progress bar is shown, on stderr or in the notebook; log=None
    shows nothing.

    Raises BeelineError for data that no recipe learns from, and for a budget that is too short.

    >>> train([[0.0, "a"]])  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    BeelineError: list is no data to train on
    """
    if more is not None or data is not None:
        return _longer(what, labels, more, data, out, budget, device, say, measure, options)
    place = free("data") if out is None else Path(out)
    require(
        labels is None or not isinstance(what, str | Path | Run | Distilled),
        f"labels were given beside {type(what).__name__}; they are part of its data: leave them out, and name the "
        "directory of the run by out=",
    )
    if isinstance(what, Distilled):
        require(budget is None, "a budget was given for a distillation; set training.steps instead")
        return _train(what, place, device, options)
    if options.get("resume") and (place / "run.yaml").is_file():  # another trial might choose another run
        hub_path(what, labels, place, stored=True)  # a stream is not stored, so it is given again
        return _train(config.build(read_description(place / "run.yaml")), place, device, options)
    ready(place, None, resume=False)  # before any data are stored and any time is spent
    hub = hub_path(what, labels, place)
    own = None if hub is not None or isinstance(what, str | Path | Run) else stored(what, labels, place)
    try:
        run = what if isinstance(what, Run) else recipe_for(str(own or hub or what), side_for(budget))
        budget = budget if isinstance(what, Run) else budget or "30m"
        if budget is not None:
            run = fit_budget(run, duration(budget), resolve_device(device), say=say, measure=measure).run
    except BeelineError:
        if own is not None:
            own.unlink(missing_ok=True)  # of no use
        raise
    return _train(run, place, device, options)


def _train(run: Run | Distilled, out: Path, device: Device, options: dict[str, Any]) -> Bundle:
    """Train a run with a progress bar on stderr or in the notebook, unless ``options`` have a log."""
    engine = options.get("parallel")
    if "log" in options or (engine is not None and engine.rank):
        return runs.train(run, out, device=device, **options)
    with progress(out.name, run.training.steps, Console(stderr=True, highlight=False), out) as log:
        return runs.train(run, out, device=device, log=log, **options)


def _longer(
    directory: Any,
    labels: Any,
    more: str | int | None,
    data: str | Path | None,
    out: str | Path | None,
    budget: str | None,
    device: Device,
    say: Callable[[str], None],
    measure: Callable[..., float],
    options: dict[str, Any],
) -> Bundle:
    """The run in a directory, continued."""
    require(
        isinstance(directory, str | Path) and labels is None and budget is None,
        "more= and data= continue the run in a directory; give its path alone, as in train('runs/data', more='10m'), "
        "without labels and budget",
    )
    require(more is not None, f"data={data} was given without more=; say for how many steps or how long, as more='10m'")
    assert more is not None
    found = continuation(directory, more, data=data, out=out, device=device, measure=measure)
    say(found.summary())
    options = {**options, "resume": found.resume, "fork": found.fork}
    return _train(found.run, found.out, device, options)
