"""The training engine: calls ``objective(networks, batch, rng)``; nothing here is specific to flows."""

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

from beeline.core.declared import check_members
from beeline.core.errors import require
from beeline.core.files import locked
from beeline.core.modes import AUTO, Device, moved
from beeline.core.protocols.training import Callback, Log, Parallel
from beeline.core.rng import Rng
from beeline.training import checkpoint
from beeline.training.checks import Diverged, Interrupted
from beeline.training.config import Training
from beeline.training.distributed.heartbeat import heartbeat
from beeline.training.distributed.parallel import SingleDevice, on_rank_zero
from beeline.training.distributed.teachers import frozen, shard, shared_names
from beeline.training.logs.run_log import combined
from beeline.training.loop import Loop
from beeline.training.optim.parameter_groups import describe_groups
from beeline.training.players import all_networks

SEED = Rng(0)
"""The default random key of a training."""


def console(entry: dict[str, Any]) -> None:
    """The default log: notes, and every 100th step, as lines on stderr."""
    if "note" in entry:
        print(f"step {entry.get('step', 0)}: {entry['note']}", file=sys.stderr)
    elif entry["step"] % 100 == 0:
        text = f"loss {entry['loss']:.4f}  lr {entry['lr']:.2e}  {entry['samples_per_second']:.0f} samples/s"
        print(f"step {entry['step']}: {text}", file=sys.stderr)


def fit(
    networks: nn.Module | Mapping[str, nn.Module],
    objective: Any,
    data: Any,
    training: Training,
    *,
    rng: Rng = SEED,
    device: Device | None = AUTO,
    parallel: Parallel | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint_dir: str | Path | None = None,
    resume: str | Path | None = None,
    log: Log = console,
    fork: bool = False,
    predicted: int | None = None,
) -> Any:
    """Train ``networks`` in place on ``data`` and return a copy with averaged weights, in evaluation mode.

    ``networks``: one network, or a mapping of them; the result has the same form.  Without an EMA the networks
    themselves are returned.
    ``data``: a tensor or NumPy array [N,*S], a Batch, a torch Dataset or DataLoader, a data set of ``beeline.data``, a
    distribution, or an object with ``microbatch(number, size)``.
    ``device``: "auto" is the accelerator of the networks if they are on one, else CUDA if available, else the CPU.  The
    networks are moved there, and so are copies of the teachers and references of the objective; data are moved
    microbatch by microbatch.
    Teachers and references are frozen while it runs: in evaluation mode, their weights without gradients; their flags
    are restored afterwards.  An engine that shards networks shards copies of them.  They are in no checkpoint.
    ``checkpoint_dir``: the directory for checkpoints; none are written without it.
    ``resume``: such a directory, or one checkpoint in it, from which training continues; with ``fork`` it is the start
    of a new run, which may have other settings.
    ``callbacks``: called with the raw and the averaged network when they are due, and with every entry of the log.
    ``predicted``: estimated peak memory in bytes, logged with the measured peak in the last entry.

    Raises Diverged, which names the first non-finite tensor, and Interrupted after Ctrl-C, SIGTERM, an interrupt of a
    notebook's kernel, or KeyboardInterrupt in a callback, once the state has been saved.
    """
    require(
        isinstance(training, Training),
        f"fit got {type(training).__name__} as its fourth argument, training; give bl.Training(steps=..., ...)",
    )
    engine = parallel or SingleDevice()
    check_members(engine, Parallel, "give one of 'beeline list parallel', such as DDP()")
    single = isinstance(networks, nn.Module)
    nets = all_networks(networks, objective, rng)  # an objective may have its own, such as a learned weight over time
    device = engine.place(device, nets)
    if not engine.shards:  # a network that will be sharded need not fit on one device
        nets = {name: net.to(device) for name, net in nets.items()}
    seen: dict[int, Any] = {id(m): m for net in nets.values() for m in net.modules()}  # trained, so never copied
    if engine.shards:
        shard(objective, nets, engine, device, training.compute.dtype, seen)
    objective = moved(objective, device, seen)
    for callback in callbacks:
        check_members(callback, Callback, "inherit beeline.training.callbacks.CallbackBase, which has defaults")
    callbacks = [callback.place(device, seen) for callback in callbacks]  # parts shared with the objective move once
    log = combined(log, *(callback.record for callback in callbacks))
    with contextlib.ExitStack() as stack:
        temporary = checkpoint_dir is None and training.early_stopping is not None and engine.world == 1
        if temporary:  # early stopping returns to the checkpoint of the best step
            checkpoint_dir = stack.enter_context(tempfile.TemporaryDirectory())
        folder = None if checkpoint_dir is None else Path(checkpoint_dir)
        if folder is not None:
            lock = locked(folder)
            on_rank_zero(engine, lambda: stack.enter_context(lock))
        stack.enter_context(frozen(objective, nets))
        loop = Loop(nets, objective, data, training, engine, rng, log, folder, callbacks, device)
        stack.callback(loop.writer.close)
        for callback in callbacks:
            callback.watch(loop.state.networks)
        loop.predicted = predicted
        if resume is not None:
            loop.resume(Path(resume), fork=fork)
        if shared := shared_names(objective, loop.state.networks):
            text = "its targets change with it; give a copy (copy.deepcopy) for a teacher that stays as it is"
            loop.log({"step": loop.state.step, "note": f"the objective holds weights of {shared}, which learn: {text}"})
        groups = [group for optimizer in loop.state.optimizers.values() for group in optimizer.param_groups]
        if any(group.get("weight_decay") or group.get("matrices") for group in groups):
            loop.log({"step": loop.state.step, "note": describe_groups(loop.state.networks)})
        requests = stack.enter_context(_stop_requests())
        loop.progress = stack.enter_context(heartbeat(engine))
        with training.compute.prepared(loop.state.networks):
            while loop.state.step < loop.steps:
                before = loop.state.step
                try:
                    stop = loop.step(bool(requests))
                except KeyboardInterrupt as interrupt:  # raised in a callback, or by a second signal
                    raise _interrupted(loop, before, saved=not temporary) from interrupt
                except Diverged as error:
                    if not loop.recover(error):
                        raise
                    continue
                done = loop.state.step
                stop = stop or (bool(requests) and engine.world == 1)  # several processes agree one step later
                if training.snapshot_every and done % training.snapshot_every == 0:
                    loop.snapshot()  # before the checkpoint: a run that dies in between writes it again
                if stop or done in (loop.steps, loop.branch, loop.best) or done % training.checkpoint_every == 0:
                    loop.save()
                if stop and done < loop.steps:
                    raise _stopped(loop, saved=not temporary)
                if loop.stop_early:
                    loop.return_to_best()
        loop.writer.wait()
        _keep_best(loop)
        result = loop.result()
    return result["network"] if single else {name: result[name] for name in nets}


def _keep_best(loop: Loop) -> None:
    """Early stopping without patience: take the weights of the best step at the end of the run."""
    stopping, best = loop.training.early_stopping, loop.best
    if stopping is None or stopping.patience is not None or not 0 < best < loop.state.step:
        return
    assert loop.checkpoint_dir is not None
    loop.load(loop.checkpoint_dir / f"step-{best:08d}")
    loop.log({"step": best, "note": f"the held-out loss is lowest after step {best}, whose weights are kept"})


def _stopped(loop: Loop, saved: bool) -> Interrupted:
    """The end of a run that was stopped after a step; ``saved`` is False if the checkpoints are temporary."""
    loop.writer.wait()
    step, folder = loop.state.step, loop.checkpoint_dir
    if folder is None or not saved:
        return Interrupted(f"stopped after step {step}; nothing was saved, because no checkpoint_dir was given", step)
    text = f"stopped after step {step} and saved a checkpoint; continue with fit(..., resume={str(folder)!r})"
    return Interrupted(text, step)


def _interrupted(loop: Loop, before: int, saved: bool) -> Interrupted:
    """The end of a run by KeyboardInterrupt in the step after ``before``; a complete state is saved.

    With early stopping a step is complete only after its evaluations, so the last checkpoint remains.
    """
    if loop.state.step > before and loop.engine.world == 1 and loop.training.early_stopping is None:
        loop.in_use(False)
        loop.save()
        return _stopped(loop, saved)
    loop.writer.close()
    folder = loop.checkpoint_dir if saved else None
    last = 0 if folder is None or not checkpoint.steps(folder) else checkpoint.number(checkpoint.newest(folder))
    text = f"the last checkpoint is of step {last} in {folder}" if last else "there is no checkpoint yet"
    return Interrupted(f"stopped within step {before + 1}; {text}", last)


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Context manager: a list of the SIGINT and SIGTERM received; a second signal raises KeyboardInterrupt at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
