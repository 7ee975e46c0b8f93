"""Solutions of inverse problems: data sampled given what was observed of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from beeline.config import build as config
from beeline.core.declared import traits_of
from beeline.core.errors import require
from beeline.core.protocols.steering import Controller
from beeline.core.rng import Rng
from beeline.data.images import Image, Images
from beeline.data.modality import complete
from beeline.data.points import Points, PointSet
from beeline.data.sequences import Sequences
from beeline.data.signals.arrays import Arrays, ArraySet
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.imputation import fill, held
from beeline.data.tables.reading import read
from beeline.data.tables.table import Table
from beeline.runs.solving.observed import Observed, is_path, observed
from beeline.runs.solving.symbols import KnownSymbols
from beeline.runs.solving.tasks import Task
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.inverse.moments import MomentMatching
from beeline.spaces.tokens import MaskTokens

if TYPE_CHECKING:  # a bundle imports this module to solve problems
    from beeline.runs.bundle import Bundle


@dataclass(frozen=True)
class Settings:
    """How a problem is solved."""

    draws: int
    noise: float | None
    cond: Any
    seed: int
    sampler: Sampler
    controller: Callable[[Measured], Controller] | None  # None is MomentMatching


@dataclass(frozen=True)
class Solution:
    """Data sampled given what was observed of them.

    ``samples`` has ``draws`` data for every observed one, all of the first before those of the second, in the user's
    own form.  ``deviation`` is the standard deviation over draws of each observed datum, in the units of the data;
    None for a single draw, and for data without such a form.
    """

    samples: Any
    draws: int
    deviation: Any = None
    summary: Any = None  # plain data: how much the draws differ


def solve(bundle: Bundle, task: Task, given: Any, how: Settings) -> Solution:
    """The solution for data observed as ``task`` says; see ``Bundle.solve``."""
    require(
        isinstance(how.draws, int) and how.draws >= 1,
        f"{how.draws!r} draws were asked for, which is no count; give a whole number from 1",
    )
    require(
        how.noise is None or how.noise > 0,
        f"the noise of the measurement is {how.noise!r}; its deviation is above 0: give for example 0.02",
    )
    require(
        bundle.modality is not None,
        "this bundle has no modality, so that it does not know the form of its data; use Sampler(controllers="
        "(MomentMatching(Measured(...)),)) on tensors",
    )
    return solved(bundle.modality, bundle, task, given, how)


@singledispatch
def solved(modality: Any, bundle: Bundle, task: Task, given: Any, how: Settings) -> Solution:
    """The solution for a modality of numbers, by a controller for linear problems."""
    seen = repeated(observed(modality, given), how.draws)
    operator, y = task.problem(seen, tuple(modality.shape))
    noise = task.noise if how.noise is None else how.noise
    require(
        noise is not None,
        f"{type(task).__name__.lower()} needs the noise of the input, which it removes; give its standard deviation, "
        "such as --noise 0.3, in the units of encoded data: half of the range of pixels is 1",
    )
    measured = Measured(operator, y, float(noise))  # type: ignore[arg-type]
    made = drawn(bundle, how, (how.controller or MomentMatching)(measured), bundle.start(range(len(y)), how.seed))
    if task.fills and how.noise is None:
        made = torch.where(operator.apply(torch.ones_like(made)) > 0, y.to(made), made)
    if how.draws == 1:
        return Solution(modality.decode(made), 1)
    spread = made.reshape(-1, how.draws, *made.shape[1:]).std(1)
    summary = {"mean_deviation": float(spread.mean()), "largest_deviation": float(spread.max())}
    return Solution(modality.decode(made), how.draws, deviation(modality, spread), summary)


def drawn(bundle: Bundle, how: Settings, controller: Controller, x0: Tensor) -> Tensor:
    """Encoded samples from source points, led by a controller."""
    sampler = replace(how.sampler, controllers=(*how.sampler.controllers, controller))
    cond = bundle.condition(how.cond, len(x0))
    return bundle.draw(x0, cond, sampler=sampler.seeded(range(len(x0)), how.seed)).cpu()


def repeated(seen: Observed, draws: int) -> Observed:
    """Every datum ``draws`` times."""
    return Observed(seen.values.repeat_interleave(draws, 0), seen.known.repeat_interleave(draws, 0))


@solved.register(Sequences)
def of_sequences(modality: Sequences, bundle: Bundle, task: Task, given: Any, how: Settings) -> Solution:
    """Sequences with known symbols."""
    filling_only(task, how, "sequences of symbols")
    seen = repeated(observed(modality, given), how.draws)
    task.problem(seen, tuple(modality.shape))
    x0 = bundle.start(range(len(seen.values)), how.seed)
    controller = KnownSymbols(x0, seen.values, seen.known, Rng(how.seed).fork("solve"))
    start = torch.where(seen.known, seen.values, x0.cpu()) if isinstance(bundle.flow.source, MaskTokens) else x0
    made = drawn(bundle, how, controller, start)
    made = torch.where(seen.known, seen.values.to(made), made)
    samples = modality.decode(made)
    if how.draws == 1:
        return Solution(samples, 1)
    share = torch.nn.functional.one_hot(made.argmax(-1), made.shape[-1]).float()
    share = share.reshape(-1, how.draws, *made.shape[1:]).mean(1).max(-1).values
    gaps = ~seen.known[:: how.draws, :, 0]
    return Solution(samples, how.draws, summary={"mean_share_of_the_most_frequent_symbol": float(share[gaps].mean())})


@solved.register(Table)
def of_tables(modality: Table, bundle: Bundle, task: Task, given: Any, how: Settings) -> Solution:
    """Rows with empty cells, by the condition on known cells that the network has learned."""
    filling_only(task, how, "tables")
    require(
        traits_of(bundle.flow.field).cells,
        "this model was trained without known cells, which imputation needs; train it with known cells: the recipe "
        "'table' does",
    )
    frame = modality.raw(rows_of(bundle, given) if is_path(given) else given)
    frame = frame.reset_index(drop=True)
    require(
        bool(frame.isna().any(axis=None)),
        f"no cell of the {len(frame)} rows is empty, so that there is nothing to fill; leave unknown cells empty",
    )

    def draw(number: int, part: Any, attempt: int) -> Tensor:
        rng = Rng(how.seed).fork("solve", number, attempt)
        cond = modality.condition(part, len(part), rng.fork("condition"))
        x0 = bundle.start(range(len(part)), rng.key())
        made = bundle.draw(x0, cond, sampler=how.sampler.seeded(range(len(part)), rng.key()))
        return held(modality, cond, made.cpu())

    parts = [fill(modality, frame, functools.partial(draw, k)) for k in range(how.draws)]
    if how.draws == 1:
        return Solution(parts[0], 1)
    pd = pandas()
    whole = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    return Solution(whole, how.draws, summary=_by_column(parts, frame.isna()))


def rows_of(bundle: Bundle, path: Any) -> Any:
    """The rows of a file, read as the training data of the bundle were."""
    own = bundle.lineage.get("data")
    return read(path) if own is None else complete(config.build(own)).read_file(str(path))


def _by_column(parts: list[Any], gaps: Any) -> dict[str, Any]:
    """How much the draws differ in the filled cells of every column."""
    pd, found = pandas(), {}
    for name in gaps.columns[gaps.any()]:
        cells = pd.concat([part[name][gaps[name]].reset_index(drop=True) for part in parts], axis=1)
        if pd.api.types.is_numeric_dtype(parts[0][name].dtype):
            found[str(name)] = {"mean_deviation": float(cells.astype(float).std(axis=1).mean())}
        else:
            most = cells.apply(lambda row: row.astype(str).value_counts(normalize=True).iloc[0], axis=1)
            found[str(name)] = {"mean_share_of_the_most_frequent_value": float(most.mean())}
    return found


def filling_only(task: Task, how: Settings, kind: str) -> None:
    """Refuse a task and settings for data of numbers."""
    require(
        task.fills,
        f"{type(task).__name__.lower()} measures numbers, and {kind} have states; fill what is missing: use 'impute', "
        "or 'forecast' for the end of sequences",
    )
    for name, value in (("noise", how.noise), ("controller", how.controller)):
        require(
            value is None,
            f"a {name} was given, which is for measured numbers; known cells and symbols are kept as they are in "
            f"{kind}: leave it out",
        )


@singledispatch
def deviation(modality: Any, spread: Tensor) -> Any:
    """Standard deviations [N,*S] of encoded data in the user's form; None where it has none."""
    return None


@deviation.register(Image)
def _of_images(modality: Image, spread: Tensor) -> Images:
    """In levels of pixels, from 0 to 255."""
    levels = spread * (modality.levels / 2 * 255 / (modality.levels - 1))
    return Images(levels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy())


@deviation.register(Arrays)
def _of_arrays(modality: Arrays, spread: Tensor) -> ArraySet:
    scale = np.asarray(modality.std).reshape(-1, *(1 for _ in modality.sizes[1:]))
    return ArraySet(spread.numpy().reshape(-1, *modality.sizes) * scale)


@deviation.register(Points)
def _of_points(modality: Points, spread: Tensor) -> PointSet:
    return PointSet(spread.double().numpy() * np.asarray(modality.std), modality.columns)
