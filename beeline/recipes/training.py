"""Training by one call, from data in memory, a path or a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from beeline.config import build as config
from beeline.config.translation import read_description
from beeline.core.errors import require
from beeline.core.files import replacing
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.recipes.automatic import recipe_for
from beeline.runs import run as runs
from beeline.runs.budget import duration, fit_budget, side_for
from beeline.runs.bundle import Bundle
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
    ``more``: ``resume``, ``fork``, ``parallel`` and ``log`` of ``runs.run.train``; a resumed run is read from ``out``.

    Raises BeelineError for data that no recipe learns from, and for a budget that is too short.

    >>> train([[0.0, "a"]])  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    BeelineError: list is no data to train on
    """
    place = _free() if out is None else Path(out)
    require(
        labels is None or not isinstance(what, str | Path | Run | Distilled),
        f"labels were given beside {type(what).__name__}; they are part of its data: leave them out, and name the "
        "directory of the run by out=",
    )
    if isinstance(what, Distilled):
        require(budget is None, "a budget was given for a distillation; set training.steps instead")
        return runs.train(what, place, device=device, **more)
    if more.get("resume") and (place / "run.yaml").is_file():  # another trial might choose another run
        return runs.train(config.build(read_description(place / "run.yaml")), place, device=device, **more)
    ready(place, None, resume=False)  # before any data are stored and any time is spent
    if isinstance(what, Run):
        run = what
    else:
        path = what if isinstance(what, str | Path) else _stored(what, labels, place)
        run, budget = recipe_for(str(path), side_for(budget)), budget or "30m"
    if budget is not None:
        run = fit_budget(run, duration(budget), resolve_device(device), say=say, measure=measure).run
    return runs.train(run, place, device=device, **more)


def _free() -> Path:
    """The first directory of its kind that does not exist."""
    names = (Path("runs") / ("data" if k == 1 else f"data-{k}") for k in range(1, 10_000))
    return next(path for path in names if not path.exists())


def _stored(data: Any, labels: Any, out: Path) -> Path:
    """Data in memory as a file beside the directory of the run."""
    if type(data).__module__.partition(".")[0] in ("pandas",):
        require(labels is None, "labels were given beside a data frame; make them a column of it")
        path = out.parent / f"{out.name}-data.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path
