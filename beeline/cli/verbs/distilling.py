"""The command distill: one method, the choice of a method by trials, and a rehearsal."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from beeline.cli import commands
from beeline.cli.console import console, progress, table, working
from beeline.config import build as config
from beeline.core.errors import require
from beeline.distillation.students import Reflow
from beeline.recipes.distilling import BEST
from beeline.recipes.students.automatic import choose
from beeline.runs.bundle import Bundle
from beeline.runs.run import Distilled
from beeline.runs.run import train as train_run
from beeline.runs.run_directory import ready
from beeline.training.checks import Interrupted
from beeline.training.config import Training

STEPS = 4  # of a rehearsal, before it is resumed
BATCH = 16


@dataclass(frozen=True)
class How:
    """The options of the command that do not change its result."""

    command: str
    device: torch.device
    resume: bool = False
    quiet: bool = False
    report: bool = True
    log: Sequence[str] = ()


def distill(
    teacher: str,
    method: str,
    evaluations: int | None,
    budget: str | None,
    pairs: Sequence[str],
    out: Path,
    rehearsed: bool,
    how: How,
) -> None:
    """Distil a teacher, after a rehearsal if one is wanted."""
    if method == BEST:
        require(
            not rehearsed,
            f"--rehearse was given with the method {BEST}, whose trials show failures early: leave it out",
        )
        return best(teacher, evaluations or 1, budget, pairs, out, how)
    run = commands.distillation(teacher, method, pairs, evaluations)
    if rehearsed and not how.resume:
        if budget is not None:
            commands.check_budget(budget, pairs, how.resume)
        ready(out, run, resume=False)  # before any work
        rehearse(run, how)
    if budget is not None:
        run = commands.budgeted_distillation(run, out, budget, pairs, how.resume, how.device)
    commands.train(
        run,
        out,
        resume=how.resume,
        quiet=how.quiet,
        command=how.command,
        device=how.device,
        report=how.report,
        log=how.log,
    )


def best(teacher: str, evaluations: int, budget: str | None, pairs: Sequence[str], out: Path, how: How) -> None:
    """Try methods for a tenth of the time each, continue the best, print the table and write the report."""
    require(budget is not None, "the method auto divides a time among methods: give one, for example --budget 30m")
    assert budget is not None
    given = commands.settings(pairs)
    wrong = [key for key in given if key.partition(".")[0] == "method" or key == "training.steps"]
    require(
        not wrong,
        f"--set {', '.join(wrong)} was given with the method auto, which tries methods with their default settings for "
        "a time: leave it out, or name one method",
    )
    require(not how.log, "--log was given with the method auto, which trains several runs: leave it out")
    run: Distilled = commands.distillation(teacher, "reflow", pairs)
    run = replace(run, method=Reflow())

    def train(run: Distilled, out: Path, *, resume: bool, fork: Path | None) -> Bundle:
        with progress(out.name, run.training.steps, out, how.quiet) as log:
            return train_run(run, out, resume=resume, fork=fork, device=how.device, log=log, live=how.report)

    def say(text: str) -> None:
        if not how.quiet:
            print(text, file=sys.stderr)

    try:
        found = choose(run, evaluations, budget, out, train, device=how.device, resume=how.resume, say=say)
    except Interrupted:
        print(f"stopped; what is complete is kept. Continue with: {how.command} --resume", file=sys.stderr)
        raise
    if not how.quiet:
        console.print(table(found.rows()))
    if how.report:
        with commands.report_errors(how.command), working(how.quiet) as status:
            from beeline.cli.report.writing import report_run

            report_run(out, found.bundle, command=how.command, status=status)


def rehearse(run: Any, how: How) -> None:
    """Do all of a distillation at toy size in a temporary directory: data, steps, checkpoint, resuming, report.

    Raises the error of what fails.
    """
    toy = toy_of(run)
    with tempfile.TemporaryDirectory() as place, working(how.quiet) as status:
        folder = Path(place) / "rehearsal"
        status("rehearsal: training")
        train_run(toy, folder, device=how.device, log=lambda entry: None, live=False)
        (folder / "bundle" / "flow.json").unlink()
        longer = config.change(toy, {"training.steps": str(STEPS + 2)})
        status("rehearsal: resuming")
        bundle = train_run(longer, folder, resume=True, device=how.device, log=lambda entry: None, live=False)
        if how.report:
            from beeline.cli.report.writing import report_run

            status("rehearsal: report")
            report_run(folder, bundle, command=how.command, n=64, status=status)
    if not how.quiet:
        print("the rehearsal is complete; the run begins", file=sys.stderr)


def toy_of(run: Distilled) -> Distilled:
    """A run with few steps of few data, and the other settings of its training."""
    usual: Training = run.training
    training = replace(
        usual,
        steps=STEPS,
        batch_size=max(1, BATCH // usual.microbatches) * usual.microbatches,
        checkpoint_every=STEPS // 2,
        watch_every=2,
        workers=0,
        snapshot_every=0,
        early_stopping=None,
    )
    return replace(run, method=run.method.rehearsal(), training=training)
