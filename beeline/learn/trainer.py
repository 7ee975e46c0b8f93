"""The training engine: it calls objective(networks, batch, rng) and knows nothing of flows."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from torch import nn

from beeline.core.modes import AUTO, Device, moved
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import require
from beeline.files import locked
from beeline.learn.belts import Diverged, Interrupted
from beeline.learn.compute import Compute
from beeline.learn.early import Patience
from beeline.learn.ema import EMA, Profile
from beeline.learn.heldout import HeldOut
from beeline.learn.kinds import listed
from beeline.learn.loop import Log, Look, Loop
from beeline.learn.optim import AdamW, Optimiser
from beeline.learn.parallel import Alone, Parallel, first
from beeline.learn.prune import Pruning
from beeline.learn.ranks import watching
from beeline.learn.rate import Cooldown, Rate, WarmupConstantCooldown


@dataclass(frozen=True)
class Training:
    """How long, in what portions and with what steps a network learns.

    one step: gradient = mean over ``lots`` lots of ``lot`` data each, clipped; optimiser; averages
    Assumes nothing of the objective.  Lot k of step n has the key rng.fork(n, k), whoever works it.
    Source: none.

    >>> Training(steps=10, lot=32).batch
    32
    """

    steps: int = 2000
    lots: int = 1  # portions of a step; more of them save memory and are shared among processes
    lot: int = 128  # data in a portion
    optimiser: Optimiser = field(default_factory=AdamW)
    rate: Rate = field(default_factory=WarmupConstantCooldown)
    ema: Profile | tuple[Profile, ...] | None = field(default_factory=EMA)  # the first one is given back
    clip: float | None = 1.0  # largest gradient norm; None is no limit
    keep_every: int = 500  # steps between checkpoints
    keep_last: int = 3  # checkpoints that stay on disk
    snapshot_every: int = 0  # steps between stored averages, for averages of any length afterwards; 0 is none
    watch_every: int = 50  # steps between update and parameter norms
    retreat: int = 0  # how often a run that diverges goes back to its last checkpoint, with half the rate
    workers: int = 0  # processes that prepare lots ahead; 0 prepares them when they are needed
    prune: Pruning | None = None  # leave easy data out by chance
    patience: Patience | None = None  # end before ``steps`` when the held-out loss stops falling
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if isinstance(self.ema, list):
            object.__setattr__(self, "ema", tuple(self.ema))
        for name in ("steps", "lots", "lot", "keep_every", "keep_last", "watch_every"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                f"training.{name} is {value!r}; it is a count: give a whole number from 1",
            )
        for name in ("snapshot_every", "retreat", "workers"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 0,
                f"training.{name} is {value!r}; it is a count, and 0 is none: give a whole number from 0",
            )
        require(
            self.clip is None or self.clip > 0,
            f"training.clip is {self.clip}; it is the largest gradient norm: give a number above 0, or none",
        )
        require(
            not self.workers or self.prune is None,
            f"training.workers={self.workers} prepare lots ahead, but what training.prune leaves out is known only "
            "when the step before is done; set training.workers=0, or training.prune=none",
        )
        peak, name = getattr(self.rate, "peak", 1.0), type(self.optimiser).__name__
        require(
            peak >= 0.1 or not getattr(self.optimiser, "rate_free", False),
            f"{name} finds its own rate and multiplies it by training.rate, whose peak is {peak:g}; learning would "
            "stand still: set training.rate to Constant(1.0) or WarmupConstantCooldown(1.0)",
        )
        require(
            self.ema is None or not getattr(self.optimiser, "averages", False),
            f"{name} averages its weights itself, so a second average beside it would lag behind twice; "
            "set training.ema=none",
        )

    @property
    def batch(self) -> int:
        """Data in one step."""
        return self.lots * self.lot

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The averages to keep, as a tuple."""
        return () if self.ema is None else self.ema if isinstance(self.ema, tuple) else (self.ema,)


def branched(training: Training, start: int, length: int) -> Training:
    """The training that leaves another one after ``start`` steps and cools down for ``length`` more.

    Take it up with ``fit(..., resume=the checkpoint of that step, fork=True)``.
    """
    require(length >= 1, f"a cooldown of {length} steps was asked for; give a whole number from 1")
    return replace(training, steps=start + length, rate=Cooldown(training.rate, start, planned=training.steps))


def console(entry: dict[str, Any]) -> None:
    """The default log: a line on stderr now and then."""
    if "note" in entry:
        print(f"step {entry.get('step', 0)}: {entry['note']}", file=sys.stderr)
    elif entry["step"] % 100 == 0:
        words = f"loss {entry['loss']:.4f}  rate {entry['rate']:.2e}  {entry['samples_per_second']:.0f} data/s"
        print(f"step {entry['step']}: {words}", file=sys.stderr)


def fit(
    networks: nn.Module | Mapping[str, nn.Module],
    objective: Any,
    data: Any,
    training: Training,
    *,
    device: Device | None = AUTO,
    parallel: Parallel | None = None,
    rng: Rng,
    log: Log = console,
    resume: str | Path | None = None,
    keep: str | Path | None = None,
    heldout: HeldOut | None = None,
    looks: Sequence[Look] = (),
    fork: bool = False,
    predicted: int | None = None,
) -> Any:
    """Train ``networks`` (in place) on ``data``; one network in, a copy with its averaged weights out, for evaluation.

    ``device`` is where: "auto" is the accelerator that the networks are on already, else CUDA where there is one, else
    the CPU.  Networks are moved there, and copies of the teachers and references of the objective; data stay where
    they are and go over a lot at a time.  The networks that come back are on that device and in evaluation mode.
    ``data`` is a tensor [N,*S], a Batch, a law, or anything with ``lot(number, size)``.  ``keep`` is the directory
    for checkpoints (none are written without it); ``resume`` is such a directory, or one checkpoint in it, which
    ``fork`` takes as the start of a new run with other settings.  ``looks`` are shown the raw and the averaged
    networks when they are due; ``predicted`` bytes of memory stand beside the measured peak in the log's last entry.
    A mapping of networks gives a mapping; without an EMA the networks come back.

    Raises Diverged (which names the first bad tensor) when numbers become non-finite, and Interrupted after Ctrl-C
    or SIGTERM, when the state has been saved.
    """
    engine = parallel or Alone()
    single = isinstance(networks, nn.Module)
    nets = {"network": networks} if isinstance(networks, nn.Module) else dict(networks)
    extra = getattr(objective, "networks", None)
    if callable(extra):  # an objective that learns something of its own (a weight over time)
        with rng.fork("networks").ambient():
            nets |= extra()
    where = engine.place(device, nets)
    if not engine.shards:  # a divided network need not fit on one device
        nets = {name: net.to(where) for name, net in nets.items()}
    seen: dict[int, Any] = {id(m): m for net in nets.values() for m in net.modules()}  # these learn: they are no copies
    objective = moved(objective, where, seen)
    if heldout is not None:  # what its objective holds is what the objective holds: moved once
        heldout = replace(heldout, objective=moved(heldout.objective, where, seen))
    every = (*(() if heldout is None else (heldout,)), *looks)
    with contextlib.ExitStack() as room:
        passing = keep is None and training.patience is not None and engine.world == 1
        if passing:  # the best state has to be somewhere while the run goes on
            keep = room.enter_context(tempfile.TemporaryDirectory())
        folder = None if keep is None else Path(keep)
        if folder is not None:
            held = locked(folder)
            first(engine, lambda: room.enter_context(held))
        loop = Loop(nets, objective, data, training, engine, rng, log, folder, every, where)
        loop.predicted = predicted
        if resume is not None:
            loop.resume(Path(resume), fork=fork)
        groups = [group for optimiser in loop.state.optimisers.values() for group in optimiser.param_groups]
        if any(group.get("weight_decay") or group.get("decay") or group.get("wide") for group in groups):
            loop.log({"step": loop.state.step, "note": listed(loop.state.networks)})
        asked = room.enter_context(_stoppable())
        loop.tell = room.enter_context(watching(engine))
        with training.compute.prepared(loop.state.networks):
            while loop.state.step < loop.steps:
                try:
                    stop = loop.step(bool(asked))
                except Diverged as error:
                    if not loop.retreat(error):
                        raise
                    continue
                done, stop = loop.state.step, stop or (bool(asked) and engine.world == 1)  # several agree a step later
                if training.snapshot_every and done % training.snapshot_every == 0:
                    loop.snapshot()  # before the checkpoint, from which a run that dies in between makes it again
                if stop or done in (loop.steps, loop.branch, loop.best) or done % training.keep_every == 0:
                    loop.save()
                if stop and done < loop.steps:
                    raise Interrupted(loop.farewell(kept=not passing), done)
                if loop.enough:
                    loop.shorten()
        made = loop.result()
    return made["network"] if single else {name: made[name] for name in nets}


@contextlib.contextmanager
def _stoppable() -> Iterator[list[int]]:
    """A list that fills when the user asks to stop; the second request stops at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
