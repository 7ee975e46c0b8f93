"""A finished run continued with more steps, for more time, or on other data."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beeline.config import build as config
from beeline.config.translation import read_description
from beeline.core.errors import require
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.core.rng import Rng
from beeline.recipes.places import unused
from beeline.runs.budget import SHARE, duration
from beeline.runs.bundle import load
from beeline.runs.reference_data import comparable, data_set
from beeline.runs.run import Distilled, Run, prepare, prepare_distilled
from beeline.runs.run_directory import ready
from beeline.training import checkpoint, extend
from beeline.training.plan import step_seconds

MOST = 10**9  # steps


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What continues a run, for ``runs.run.train``."""

    run: Any  # a Run or a Distilled, with the new number of steps
    out: Path
    fork: Path | None  # the checkpoint from which a run on other data starts; None resumes the run in ``out``
    start: int  # the step of the checkpoint from which it continues
    before: int  # steps of the run so far
    exact: bool  # whether the result is that of an uninterrupted run of the new length

    @property
    def resume(self) -> bool:
        return self.fork is None

    def summary(self) -> str:
        """One line on what will be done."""
        again = self.before - self.start
        parts = [f"the run of {self.before:,} steps continues from step {self.start:,} to {self.run.training.steps:,}"]
        if again > 0:
            parts.append(f"the last {again:,} steps, whose learning rate fell, are made again")
        if not self.exact:
            parts.append("its schedule depends on the number of steps, so the learning rate rises again (warm restart)")
        if self.fork is not None:
            parts.append(f"on {self.run.data!r} in {self.out}")
        return "; ".join(parts)


def continuation(
    directory: str | Path,
    more: str | int,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    device: Device = AUTO,
    measure: Callable[..., float] = step_seconds,
) -> Continuation:
    """How a run goes on: with ``more`` steps, or for a time such as "10m", beyond the steps that it has.

    A run continues from the newest checkpoint up to which a run of the new length has the same learning rates: the
    last one for a constant learning rate, the start of the cooldown for a schedule that ends in one.  The result is
    that of an uninterrupted run of the new length, bit for bit on a CPU.  Where the learning rate depends on the number
    of steps from the start (``WarmupCosine``, ``OneCycle``), the run continues from its last checkpoint at the learning
    rate that the longer schedule has there.  Averages and optimizer state continue; early stopping starts anew.

    ``data`` replaces the data of the run: a file of the same format, or a data set by name.  The modality (columns,
    scales, classes) stays that of the run.  It is a new run in ``out``, by default the first free one of DIR-2, DIR-3,
    ..., and the old one is left as it is.

    Raises BeelineError for a directory without a checkpoint, a time that is too short, and data that do not fit.
    """
    directory = Path(directory)
    require(
        (directory / "run.yaml").is_file(),
        f"{directory} is no run (it has no run.yaml), so it cannot be continued; give the directory that training left",
    )
    run = config.build(read_description(directory / "run.yaml"))
    root = directory / "checkpoints"
    require(
        checkpoint.steps(root),
        f"the run in {directory} has no checkpoint yet, from which it could continue; start it again with resume",
    )
    require(
        data is not None or out is None or Path(out).resolve() == directory.resolve(),
        f"out={out} was given, but a run continues in its own directory; leave it out, or fork a new run from its "
        "checkpoint",
    )
    before = extend.planned(checkpoint.state(checkpoint.newest(root, lambda text: None)))
    lr = run.training.lr_schedule
    start = extend.start(root, lr, 2 * before)
    place = directory
    if data is not None:
        run, place = on_other_data(run, directory, str(data)), unused(directory) if out is None else Path(out)
        ready(place, run, resume=False)
    count = whole(more)
    if count is None:
        count = fitting(run, before - start.step, duration(str(more)), device, measure)
    total = before + count
    if total == run.training.steps and data is None:
        total += 1  # early stopping made the run shorter, and the same settings would resume the shorter run
    start = extend.start(root, lr, total)
    run = dataclasses.replace(run, training=dataclasses.replace(run.training, steps=total))
    return Continuation(run, place, None if data is None else start.path, start.step, before, start.exact)


def whole(more: str | int) -> int | None:
    """A number of steps; None for a duration."""
    text = str(more).strip()
    if not re.fullmatch(r"[+-]?[\d_.]+", text):
        return None
    require(
        text.isdigit() and 1 <= int(text) <= MOST and not isinstance(more, bool),
        f"more={more!r} is no number of steps and no time; give a whole number of steps, such as 2000, or a time with "
        "its unit, such as 10m",
    )
    return int(text)


def fitting(run: Any, again: int, seconds: float, device: Device, measure: Callable[..., float]) -> int:
    """The number of steps beyond the present ones for which there is time, after ``again`` steps made again."""
    begun = time.perf_counter()
    where = resolve_device(device)
    work = prepare(run) if isinstance(run, Run) else prepare_distilled(run, where)
    nets = work.networks if isinstance(work.networks, dict) else {"network": work.networks}
    for net in nets.values():
        net.to(where)
    rng = Rng(run.seed).fork("budget")
    step = measure(work.networks, work.objective, work.data, run.training, rng, 6, limit=0.03 * seconds)
    spent = time.perf_counter() - begun
    count = int((SHARE * seconds - spent) / step) - again
    least = ((again + 1) * step + spent) / SHARE + 1
    require(
        count >= 1,
        f"{seconds:.0f} s are too short to make the run longer: a step takes {step:.2g} s, loading and trying took "
        f"{spent:.0f} s, and {again} steps are made again, whose learning rate fell; give at least {least:.0f} s",
    )
    return count


def on_other_data(run: Any, directory: Path, data: str) -> Run:
    """The run on other data, with its present modality."""
    require(
        isinstance(run, Run) and not isinstance(run, Distilled),
        f"data={data} was given, but {directory} is a distillation, whose data are those of its teacher; continue the "
        "teacher, and distil it again",
    )
    bundle = load(directory, device="cpu")
    source = data_set(data, bundle)
    comparable(source, bundle, str(directory))
    assert bundle.modality is not None
    found: Run = dataclasses.replace(run, data=source, modality=bundle.modality)
    return found
