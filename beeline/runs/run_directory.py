"""The directory of a run: whether it is free, can be resumed, or holds no checkpoint yet."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beeline.config import build as config
from beeline.config.translation import read_description
from beeline.core.errors import BeelineError, require
from beeline.core.files import LOCK, PART
from beeline.training import checkpoint
from beeline.training.checks import Interrupted
from beeline.training.compare import CHANGEABLE

TRIALS = "trials"  # the folder of the methods that were tried, of a run that continues the best of them


def ready(out: Path, run: Any, resume: bool) -> None:
    """Refuse an output directory that is not free, or a resume that is not the same run."""
    recipe = out / "run.yaml"
    begun = (out / LOCK).is_file() or (out / TRIALS).is_dir()
    if (recipe.is_file() or (not resume and begun)) and unstarted(out):
        return  # nothing was learned, so nothing can be lost
    if resume:
        require(
            recipe.is_file(),
            f"--resume was given, but {out} is not a run (it has no run.yaml); give the directory of the run, "
            "or start it without --resume",
        )
        old, new = flat(read_description(recipe)), flat(config.describe(run))
        changed = [k for k in sorted(set(old) | set(new)) if old.get(k) != new.get(k) and f"{k}:" not in CHANGEABLE]
        require(
            not changed,
            "the run was started with other settings: "
            + "; ".join(f"{k} was {old.get(k)!r}, is now {new.get(k)!r}" for k in changed[:5])
            + "; only training.steps may be raised: resume with the old settings, or start a new run in another --out",
        )
        return
    require(not out.exists() or out.is_dir(), f"{out} is a file; a run needs a directory: choose another --out")
    if out.is_dir() and any(out.iterdir()):
        what = "already holds a run" if recipe.is_file() else "exists and is not a run"
        mend = (
            "continue it with --resume, make it longer with --more 10m, or choose another --out"
            if recipe.is_file()
            else "choose another --out"
        )
        raise BeelineError(f"{out} {what}, and nothing is overwritten; {mend}")


@contextlib.contextmanager
def how_to_continue(out: Path) -> Iterator[None]:
    """Add to the message of an interrupted run how it is continued."""
    try:
        yield
    except Interrupted as stop:
        done = f"after step {stop.step}; the checkpoint is saved" if stop.step else "before the first checkpoint"
        command = shlex.join(["beeline", "train", str(out), "--resume"])
        raise Interrupted(
            f"stopped {done}: continue with bl.train(..., out={str(out)!r}, resume=True), or with '{command}'",
            stop.step,
        ) from stop


def unstarted(out: Path) -> bool:
    """Whether a directory holds only the files of a run that ended before its first checkpoint."""
    own = {
        "run.yaml",
        "log.jsonl",
        "samples",
        "checkpoints",
        "live.html",
        "trackers.json",
        "tensorboard",
        "wandb",
        "rounds",  # those before the last, which continue
        TRIALS,
        LOCK,
    }
    return (
        out.is_dir()
        and all(p.name in own or p.suffix == PART for p in out.iterdir())
        and not checkpoint.steps(out / "checkpoints")
    )


def flat(data: Any, name: str = "") -> dict[str, Any]:
    """Nested plain data as dotted names, for comparing two recipes."""
    if isinstance(data, dict):
        return {
            k: v for key, part in data.items() for k, v in flat(part, f"{name}.{key}" if name else str(key)).items()
        }
    return {name: data}
