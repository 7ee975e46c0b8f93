"""Options of ``beeline train`` that concern the training engine: processes, plans, forks and trackers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beeline.config import build as config
from beeline.core.declared import fields_of
from beeline.core.errors import nearest, require
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.core.protocols.training import Parallel
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.networks.hub.caches import Cache
from beeline.runs.budget import duration, fit_budget
from beeline.runs.run import Run, prepare, prepare_distilled
from beeline.runs.run_directory import ready
from beeline.training import checkpoint
from beeline.training import plan as plans
from beeline.training.config import branched
from beeline.training.distributed import parallel


@contextlib.contextmanager
def processes(name: str | None) -> Iterator[Parallel]:
    """The parallel engine ``name`` inside an initialised process group; SingleDevice without a name."""
    if name is None:
        yield parallel.SingleDevice()
        return
    engines = {"ddp": parallel.DDP, "fsdp": parallel.FSDP}
    require(name in engines or "(" in name, f"--parallel got {name!r}; {nearest(name, engines)}")
    engine: Any = config.parse(name, "parallel") if "(" in name else engines[name]()
    parallel.init_process_group()
    try:
        yield engine
    finally:
        parallel.destroy_process_group()


USUAL = "30m"  # the budget of a run on data where none is given


def budgeted(
    run: Any,
    name: str,
    pairs: Sequence[str],
    budget: str | None,
    device: Device,
    *,
    out: Path | None,
    parallel: str | None,
    quiet: bool,
) -> Any:
    """The run fitted to a budget, with a line on what was chosen; itself where no budget is given and none applies.

    ``out`` is checked before any time is spent on it.
    """
    from beeline.cli.commands import is_data, settings

    given = settings(pairs)
    if budget is None and (not is_data(name) or "training.steps" in given):
        return run
    require(isinstance(run, Run), f"--budget was given for {name}, which is a distillation; set training.steps instead")
    require(
        parallel is None,
        f"--parallel {parallel} was given for a run with a time budget, which every process would measure otherwise; "
        "set the length of the run by --set training.steps=N",
    )
    if out is not None:
        ready(out, run, resume=False)
    seconds = duration(budget or USUAL)
    report = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr))
    report(f"fitting network and steps to {budget or USUAL}" + ("" if budget else " (--budget changes it)"))
    fitted = fit_budget(
        run,
        seconds,
        resolve_device(device),
        network=not any(key.partition(".")[0] == "network" for key in given),
        steps="training.steps" not in given,
        say=report,
    )
    training = fitted.run.training
    report(
        f"network {fitted.parameters:,} parameters; {training.steps:,} steps of {training.batch_size} data, "
        f"{fitted.step_seconds:.3g} s each, about {fitted.seconds / 60:.1f} min"
    )
    return fitted.run


def plan(run: Any, as_json: bool, device: Device = AUTO) -> None:
    """Print the expected memory, disk space and time of a run on a device, without starting it."""
    where = resolve_device(device)
    work = prepare(run) if isinstance(run, Run) else prepare_distilled(run, where)
    for net in work.networks.values() if isinstance(work.networks, Mapping) else (work.networks,):
        net.to(where)
    rng = Rng(run.seed).fork("training")
    result = plans.plan(work.networks, work.objective, work.data, run.training, rng=rng)
    print(json.dumps(result.plain(), indent=2) if as_json else "\n".join(result.lines()))


@dataclass(frozen=True)
class Loading:
    """How a pretrained pipeline is loaded: arguments of ``bl.load``."""

    dtype: str | None = None  # float32, bfloat16 or float16
    offload: str | None = None  # model, group or sequential
    device_map: str | None = None  # balanced
    quantization_config: str | None = None  # torchao-int8, torchao-float8, bitsandbytes-8bit or bitsandbytes-4bit
    tiling: bool = False  # decode a part of a picture at a time
    slicing: bool = False  # decode one picture at a time
    height: Count | None = None  # in pixels
    width: Count | None = None  # in pixels
    num_frames: Count | None = None
    max_sequence_length: Count | None = None  # of a prompt, in tokens
    cache: Cache | None = None  # reuses parts of earlier evaluations
    compile_blocks: bool = False  # compile the repeated blocks of the network


def loading(pairs: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings ``load.NAME=VALUE`` with their values, and all other settings."""
    from beeline.cli.commands import settings

    chosen = [pair for pair in pairs if pair.startswith("load.")]
    made = config.change({"load": Loading()}, settings(chosen))["load"] if chosen else Loading()
    return {k: v for k, v in fields_of(made).items() if v}, [pair for pair in pairs if pair not in chosen]


def plan_sampling(name: str, n: int, pairs: Sequence[str], as_json: bool, device: Device = AUTO) -> None:
    """Print the expected memory and time of samples of a pretrained pipeline, without loading its weights."""
    from beeline.cli.commands import sampler_of
    from beeline.hub.planning import plan as plan_of

    how, rest = loading(pairs)
    how = {k: v for k, v in how.items() if k not in ("cache", "compile_blocks")}  # the time is that of full evaluations
    result = plan_of(name, n, device=device, sampler=lambda bundle: sampler_of(bundle, rest), **how)
    print(json.dumps(result.plain(), indent=2) if as_json else "\n".join(result.lines()))


def branch(
    run: Any, recipe: str, out: Path, fork: bool, cooldown: int | None, at: int | None
) -> tuple[Any, Path | None]:
    """The run to train and the checkpoint from which it starts; None unless it is forked from another run."""
    if not fork and cooldown is None:
        require(
            at is None, "--at is the checkpoint for --fork or --branch-cooldown, and neither is given; add one of them"
        )
        return run, None
    folder = Path(recipe) / "checkpoints"
    require(
        folder.is_dir(),
        f"a fork starts from a checkpoint, and {recipe} has none; give the directory of a run",
    )
    require(
        out.resolve() != Path(recipe).resolve(),
        "the fork would overwrite the run that it starts from; give another directory with --out",
    )
    start = checkpoint.newest(folder)
    if at is not None:
        start = folder / f"step-{at:08d}"
        known = [str(checkpoint.number(p)) for p in checkpoint.steps(folder)]
        require(start.is_dir(), f"there is no checkpoint of step {at} in {recipe}; there are {', '.join(known)}")
    step = checkpoint.number(start)
    if cooldown is not None:
        run = dataclasses.replace(run, training=branched(run.training, step, cooldown))
    require(
        run.training.steps > step,
        f"the fork starts after step {step} and training.steps is {run.training.steps}, so no steps are left; "
        f"give --set training.steps={step + 1000}, or --branch-cooldown STEPS",
    )
    return run, start
