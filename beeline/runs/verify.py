"""The doctor: whether a run keeps its promises, proved on its own configuration."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.config import build as config
from beeline.config.translation import read_description
from beeline.core.declared import is_map
from beeline.core.errors import BeelineError, require
from beeline.core.rng import Rng
from beeline.core.types import Cond, take
from beeline.evaluation.heldout import HeldOut
from beeline.runs.bundle import load
from beeline.runs.run import Distilled, Run, prepare, prepare_distilled
from beeline.training import checkpoint
from beeline.training.checks import first_bad
from beeline.training.fit import fit

STEPS, KILLED = 6, 5  # length of the trial, and the step in whose middle it is killed


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    text: str


def examine(run: str | Path, trial: bool = True) -> Iterator[Finding]:
    """Check the files, numbers and convention of a run and its exact resume; yields one finding at a time."""
    path = Path(run)
    require(
        (path / "run.yaml").is_file(),
        f"{path} is not a run (it has no run.yaml); give the directory that 'beeline train --out' wrote",
    )
    yield from files(path)
    yield from weights(path)
    if (path / "bundle").is_dir():
        yield convention(path)
    if trial:
        yield resume(path)


def files(path: Path) -> Iterator[Finding]:
    """Every checkpoint has the hashes of its manifest."""
    found = checkpoint.steps(path / "checkpoints")
    if not found:
        yield Finding(
            "checkpoints", False, "there are none, so the run cannot be resumed; training.checkpoint_every writes them"
        )
    for one in found:
        wrong = checkpoint.flaw(one)
        yield Finding(one.name, wrong is None, wrong or "every file has the hash of the manifest")


def weights(path: Path) -> Iterator[Finding]:
    """Every tensor is finite, and bundle and checkpoint have the same names."""
    good = [p for p in checkpoint.steps(path / "checkpoints") if checkpoint.flaw(p) is None]
    names: set[str] = set()
    if good:
        saved = checkpoint.read(good[0])
        every = [(f"{group}.{k}", v) for group, tensors in saved.tensors.items() for k, v in tensors.items()]
        bad = first_bad((name, v) for name, v in every if not name.startswith("extras."))
        yield Finding("numbers", bad is None, bad or f"all {len(every)} tensors of {good[0].name} are finite")
        parts = (saved.tensors, saved.state.get("frozen", {}))
        names = {k for part in parts for group in ("network", "student") for k in part.get(group, {})}
    if (path / "bundle").is_dir():
        try:
            bundle = load(path, device="cpu")
        except BeelineError as error:
            yield Finding("bundle", False, str(error))
            return
        own = set(bundle.flow.field.state_dict())
        wrong = sorted(names ^ own) if names else []
        matched = f"{len(own)} names match" if names else f"{len(own)} tensors, no checkpoint to compare with"
        yield Finding("bundle", not wrong, f"names differ from the checkpoint: {wrong[:3]}" if wrong else matched)


def convention(path: Path) -> Finding:
    """The recorded direction of time and sign of the velocity fit the data better than any other."""
    recipe = config.build(read_description(path / "run.yaml"))
    work = prepare(recipe) if isinstance(recipe, Run) else prepare_distilled(recipe)
    field = load(path, device="cpu").flow.field
    if work.heldout is None:
        return Finding("convention", True, "there is no held-out set to compare conventions on")
    some = take(work.heldout.data, torch.arange(min(256, len(work.heldout.data.x1))))
    heldout = HeldOut(work.objective, some, rng=Rng(0))

    def candidate(sign: float, turned: bool) -> Any:
        def v(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            made: Tensor = (
                field(x, 1 - t if turned else t, cond) if cond is not None else field(x, 1 - t if turned else t)
            )
            return sign * made

        return v

    if is_map(field):
        return Finding("convention", True, "a flow map; its convention is that of its teacher")
    with torch.no_grad():
        losses = {
            "as recorded": heldout(candidate(1, False)).value,
            "with the other sign": heldout(candidate(-1, False)).value,
            "with time reversed": heldout(candidate(1, True)).value,
            "with both": heldout(candidate(-1, True)).value,
        }
    best = min(losses, key=lambda name: losses[name])
    text = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    good = losses["as recorded"] <= losses[best] * (1 + 1e-3)
    return Finding("convention", good, f"held-out loss {text}" + ("" if good else f"; the data fit it best {best}"))


def resume(path: Path) -> Finding:
    """A few steps of the run's own configuration, killed and resumed, equal those that were not, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        call = "import sys; from beeline.runs.verify import trials; trials(*sys.argv[1:])"
        words = [sys.executable, "-c", call, str(path), folder]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return Finding("exact resume", False, f"the trial could not be run ({last})")
        a, b = (checkpoint.read(checkpoint.newest(Path(folder, name))) for name in ("whole", "cut"))
        for group in a.tensors:
            for name, tensor in a.tensors[group].items():
                if not torch.equal(tensor, b.tensors[group][name]):
                    gap = float((tensor.double() - b.tensors[group][name].double()).abs().max())
                    where = f"the first tensor that differs is {group}.{name}, by {gap:.3g}"
                    return Finding("exact resume", False, where)
    count = sum(len(tensors) for tensors in a.tensors.values())
    return Finding(
        "exact resume",
        True,
        f"{STEPS} steps equal {KILLED - 1} steps, SIGKILL in step {KILLED}, and the rest: {count} tensors bit for bit",
    )


def trials(run: str, folder: str) -> None:
    """The trial without and with a kill, each in a forked process, so that libraries are loaded once."""
    import torch._dynamo  # noqa: F401 - torch's optimizers load it: once, before the forks

    for name, killed in (("whole", False), ("cut", True), ("cut", False)):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                trial(Path(run), Path(folder, name), killed)
                code = 0
            except BaseException as error:
                print(error, file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended != (-signal.SIGKILL if killed else 0):
            sys.exit(1)


def trial(run: Path, keep: Path, killed: bool) -> None:
    """The first steps of a run, in a process that kills itself if required."""
    recipe: Run | Distilled = config.build(read_description(run / "run.yaml"))
    work = prepare(recipe) if isinstance(recipe, Run) else prepare_distilled(recipe)
    training = dataclasses.replace(recipe.training, steps=STEPS, checkpoint_every=2, watch_every=3, early_stopping=None)

    def log(entry: dict[str, Any]) -> None:
        if killed and entry.get("step") == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)

    before = keep if checkpoint.steps(keep) else None
    rng = Rng(recipe.seed).fork("training")
    fit(work.networks, work.objective, work.data, training, rng=rng, log=log, checkpoint_dir=keep, resume=before)


def report(findings: Iterator[Finding], as_json: bool, say: Any = print) -> bool:
    """Print the findings as they come; whether all are good."""
    every = []
    for finding in findings:
        every.append(finding)
        if not as_json:
            say(f"{'good' if finding.good else 'BAD '}  {finding.what}: {finding.text}")
    if as_json:
        say(json.dumps([dataclasses.asdict(f) for f in every], indent=2))
    return all(f.good for f in every)
