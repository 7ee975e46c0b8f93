"""Training by one call, from data in memory, a path or a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from beeline.core.errors import require
from beeline.core.files import replacing
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.recipes.automatic import recipe_for
from beeline.runs import run as runs
from beeline.runs.budget import duration, fit_budget, side_for
from beeline.runs.bundle import Bundle
from beeline.runs.run import Distilled, Run
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
    **more: Any,
) -> Bundle:
    """Train a flow on data, on a path or by a run, and return its bundle.

    ``what``: points [N] or [N,D], uint8 images [N,H,W] or [N,H,W,C] as an array or tensor, a pandas data frame, the
    path of a file or folder, or a Run.
    ``labels``: whole numbers [N] beside an array: the condition ``label``, dropped in a tenth of the data so that
    guidance and unconditional sampling work.
    ``out``: directory of the run, by default the first free one of ``runs/data``, ``runs/data-2``, ...  Data in memory
    are stored beside it, so that the run can be resumed, distilled and evaluated.
    ``budget``: time for all of it, such as "5m"; 30 minutes by default for data.  A Run is fitted to one if given.
    ``say`` is called with a line about each network that is tried, whose steps ``measure`` times.
    ``more``: ``resume``, ``fork``, ``parallel`` and ``log`` of ``runs.run.train``.

    Raises BeelineError for data that no recipe learns from, and for a budget that is too short.

    >>> train([[0.0, "a"]])  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    BeelineError: list is no data to train on
    """
    place = _free() if out is None else Path(out)
    if isinstance(what, str | Path):
        require(
            labels is None, "labels were given beside a path; they are part of the file or the folder: leave them out"
        )
        run: Run | Distilled = recipe_for(str(what), side_for(budget))
    elif isinstance(what, Run | Distilled):
        run = what
    else:
        run = recipe_for(str(_stored(what, labels, place)), side_for(budget))
    if budget is not None or not isinstance(what, Run | Distilled):
        require(isinstance(run, Run), "a budget was given for a distillation; set training.steps instead")
        assert isinstance(run, Run)
        if not more.get("resume"):
            run = fit_budget(run, duration(budget or "30m"), resolve_device(device), say=say, measure=measure).run
    return runs.train(run, place, device=device, **more)


def _free() -> Path:
    """The first directory of its kind that does not exist."""
    names = (Path("runs") / ("data" if k == 1 else f"data-{k}") for k in range(1, 10_000))
    return next(path for path in names if not path.exists())


def _stored(data: Any, labels: Any, out: Path) -> Path:
    """Data in memory as a file beside the directory of the run."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if type(data).__module__.partition(".")[0] in ("pandas",):
        require(labels is None, "labels were given beside a data frame; make them a column of it")
        path = out.parent / f"{out.name}-data.parquet"
        with replacing(path) as temporary:
            data.to_parquet(temporary, index=False)
        return path
    require(
        isinstance(data, np.ndarray | Tensor),
        f"{type(data).__name__} is no data to train on; give an array or a tensor [N,D], uint8 images [N,H,W] or "
        "[N,H,W,C], a pandas data frame, or the path of a file or folder",
    )
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else data
    pictures = array.dtype == np.uint8 and array.ndim in (3, 4)
    require(
        pictures or array.ndim in (1, 2),
        f"the data are {array.dtype} of shape {array.shape}; points are [N] or [N,D], and images uint8 [N,H,W] or "
        "[N,H,W,C]: reshape or convert them",
    )
    arrays = {"images" if pictures else "points": array}
    if labels is not None:
        given = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
        require(
            given.shape == (len(array),) and given.dtype.kind in "iu",
            f"the labels are {given.dtype} of shape {given.shape} beside {len(array)} data; give one whole number for "
            "each, such as the codes of pandas.factorize",
        )
        arrays["labels"] = given
    path = out.parent / f"{out.name}-data.npz"
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path
