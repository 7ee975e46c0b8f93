"""The training engine: it calls objective(networks, batch, rng) and knows nothing of flows."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from beeline.core.declared import missing
from beeline.core.errors import require
from beeline.core.files import locked
from beeline.core.modes import AUTO, Device, moved
from beeline.core.protocols.objectives import spec_of
from beeline.core.protocols.training import Callback, Log, Parallel
from beeline.core.rng import Rng
from beeline.training.checks import Diverged, Interrupted
from beeline.training.config import Training
from beeline.training.distributed.heartbeat import heartbeat
from beeline.training.distributed.parallel import SingleDevice, first
from beeline.training.loop import Loop
from beeline.training.optim.parameter_groups import listed

SEED = Rng(0)
"""The default random numbers of a training."""


def console(entry: dict[str, Any]) -> None:
    """The default log: a line on stderr now and then."""
    if "note" in entry:
        print(f"step {entry.get('step', 0)}: {entry['note']}", file=sys.stderr)
    elif entry["step"] % 100 == 0:
        words = f"loss {entry['loss']:.4f}  lr {entry['lr']:.2e}  {entry['samples_per_second']:.0f} data/s"
        print(f"step {entry['step']}: {words}", file=sys.stderr)


def fit(
    networks: nn.Module | Mapping[str, nn.Module],
    objective: Any,
    data: Any,
    training: Training,
    *,
    device: Device | None = AUTO,
    parallel: Parallel | None = None,
    rng: Rng = SEED,
    log: Log = console,
    resume: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    fork: bool = False,
    predicted: int | None = None,
) -> Any:
    """Train ``networks`` (in place) on ``data``; one network in, a copy with its averaged weights out, for evaluation.

    ``device`` is where: "auto" is the accelerator that the networks are on already, else CUDA where there is one, else
    the CPU.  Networks are moved there, and copies of the teachers and references of the objective; data stay where
    they are and are moved microbatch by microbatch.  The networks that come back are on that device and in evaluation
    mode.
    ``data`` is a tensor [N,*S], a Batch, a distribution, or anything with ``microbatch(number, size)``.
    ``checkpoint_dir`` is the directory for checkpoints (none are written without it); ``resume`` is such a directory,
    or one checkpoint in it, which ``fork`` takes as the start of a new run with other settings.  ``callbacks`` are
    called with the raw and the averaged networks when they are due; ``predicted`` bytes of memory stand beside the
    measured peak in the log's last entry.
    A mapping of networks gives a mapping; without an EMA the networks come back.

    Raises Diverged (which names the first bad tensor) when numbers become non-finite, and Interrupted after Ctrl-C
    or SIGTERM, when the state has been saved.
    """
    engine = parallel or SingleDevice()
    single = isinstance(networks, nn.Module)
    nets = {"network": networks} if isinstance(networks, nn.Module) else dict(networks)
    extra = spec_of(objective).networks
    if extra is not None:  # an objective that learns something of its own (a weight over time)
        with rng.fork("networks").ambient():
            nets |= extra()
    where = engine.place(device, nets)
    if not engine.shards:  # a divided network need not fit on one device
        nets = {name: net.to(where) for name, net in nets.items()}
    seen: dict[int, Any] = {id(m): m for net in nets.values() for m in net.modules()}  # these learn: they are no copies
    objective = moved(objective, where, seen)
    for callback in callbacks:
        require(
            isinstance(callback, Callback),
            f"{type(callback).__name__} was given as a callback, but lacks "
            f"{', '.join(missing(callback, Callback))}; inherit beeline.training.callbacks.CallbackBase, which has "
            "defaults, and write ``name`` and ``evaluate``",
        )
    every = [callback.place(where, seen) for callback in callbacks]  # what they share with the objective moves once
    with contextlib.ExitStack() as room:
        passing = checkpoint_dir is None and training.early_stopping is not None and engine.world == 1
        if passing:  # the best state has to be somewhere while the run goes on
            checkpoint_dir = room.enter_context(tempfile.TemporaryDirectory())
        folder = None if checkpoint_dir is None else Path(checkpoint_dir)
        if folder is not None:
            held = locked(folder)
            first(engine, lambda: room.enter_context(held))
        loop = Loop(nets, objective, data, training, engine, rng, log, folder, every, where)
        loop.predicted = predicted
        if resume is not None:
            loop.resume(Path(resume), fork=fork)
        groups = [group for optimizer in loop.state.optimizers.values() for group in optimizer.param_groups]
        if any(group.get("weight_decay") or group.get("decay") or group.get("wide") for group in groups):
            loop.log({"step": loop.state.step, "note": listed(loop.state.networks)})
        asked = room.enter_context(_stoppable())
        loop.tell = room.enter_context(heartbeat(engine))
        with training.compute.prepared(loop.state.networks):
            while loop.state.step < loop.steps:
                try:
                    stop = loop.step(bool(asked))
                except Diverged as error:
                    if not loop.recover(error):
                        raise
                    continue
                done, stop = loop.state.step, stop or (bool(asked) and engine.world == 1)  # several agree a step later
                if training.snapshot_every and done % training.snapshot_every == 0:
                    loop.snapshot()  # before the checkpoint, from which a run that dies in between makes it again
                if stop or done in (loop.steps, loop.branch, loop.best) or done % training.checkpoint_every == 0:
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
