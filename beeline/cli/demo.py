"""``beeline demo``: train, straighten, distil to one step and evaluate on built-in data, with a report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from beeline.cli.commands import recipe, resume_hint
from beeline.cli.console import console, progress, working
from beeline.config import build as config
from beeline.core.errors import require
from beeline.core.files import write_json
from beeline.core.modes import AUTO, Device
from beeline.distillation.students import OneStep, Reflow
from beeline.recipes.images import digits
from beeline.runs.bundle import Bundle, load
from beeline.runs.run import Distilled, train
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training
from beeline.training.optim.learning_rate import WarmupConstantCooldown

PAIRS = 12_000
STAGES = ("teacher", "reflowed", "distilled")


def demo(out: Path, *, quick: bool = False, device: Device = AUTO, report: bool = True) -> None:
    """Write the runs ``out/teacher``, ``out/reflowed``, ``out/distilled`` and the report ``out/report.html``.

    A demo that was interrupted continues from its last checkpoint.
    """
    from beeline.cli.report.measuring import COUNTS
    from beeline.cli.report.writing import report_demo

    require(
        not out.exists()
        or (out.is_dir() and {p.name for p in out.iterdir()} <= {*STAGES, "report.html", "figures.json"}),
        f"{out} exists and holds other files than those of a demo; choose another --out",
    )
    torch.set_num_threads(1)  # the kernels are too small for a second thread
    spent: dict[str, float] = {}
    bundles = {}
    for name, run in plans(out, quick).items():
        with timed(name, spent):
            bundles[name] = stage(name, run, out / name, device)
    if not report:
        console.print(f"\nthree runs in {escape(str(out))}   ({sum(spent.values()):.0f} s in total)")
        return
    if not (out / "figures.json").is_file():  # written last
        with timed("measure", spent), working() as status:
            counts = (1, 4, 32) if quick else COUNTS
            models = report_demo(out, bundles, n=200 if quick else 1000, counts=counts, status=status)
        write_json(out / "figures.json", {"seconds": spent, "models": models})
    console.print(f"\n[bold]open {escape(str(out / 'report.html'))}[/bold]   ({sum(spent.values()):.0f} s in total)")


def plans(out: Path, quick: bool) -> dict[str, Any]:
    """The three runs by name."""
    teacher = digits()
    steps = 40 if quick else 0
    pairs = 400 if quick else PAIRS
    fine = Sampler(12)
    follow = Training(
        steps=steps or 3000, batch_size=128, lr=WarmupConstantCooldown(peak=1e-3, warmup=50, cooldown=0.6)
    )
    return {
        "teacher": replace(teacher, training=replace(teacher.training, steps=steps or teacher.training.steps)),
        "reflowed": Distilled(str(out / "teacher"), Reflow(fine, count=pairs), follow),
        "distilled": Distilled(str(out / "reflowed"), OneStep(fine, count=pairs), replace(follow, steps=steps or 2000)),
    }


def stage(name: str, run: Any, out: Path, device: Device = AUTO) -> Bundle:
    """Train one run; a finished run is loaded, and an interrupted one is resumed."""
    if (out / "bundle" / "flow.json").is_file() and (out / "run.yaml").is_file():
        require(
            recipe(str(out)) == config.build(config.describe(run)),
            f"{out} holds a run with other settings; choose another --out, or remove it",
        )
        console.print(f"{name}: already trained")
        return load(out, device=device)
    resume = (out / "checkpoints").is_dir() and any((out / "checkpoints").iterdir())
    with (
        resume_hint(shlex.join(["beeline", "demo", "--out", str(out.parent)])),
        progress(name, run.training.steps, out) as log,
    ):
        return train(run, out, resume=resume, device=device, log=log)


@contextmanager
def timed(name: str, spent: dict[str, float]) -> Iterator[None]:
    """Store the seconds of a block under ``name`` in ``spent``."""
    begin = time.perf_counter()
    yield
    spent[name] = time.perf_counter() - begin
