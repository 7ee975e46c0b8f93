"""Edits of the files of a user: what is read, edited and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beeline.cli import commands
from beeline.cli.conditions import condition
from beeline.cli.console import console, counting, table
from beeline.cli.verbs.edits.folders import Part, files_in, first_data, read
from beeline.cli.verbs.solving import write
from beeline.config import build as config
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.editing import Edit
from beeline.hub.loading import load
from beeline.runs.bundle import Bundle
from beeline.runs.editing.auto import Trial, try_edits
from beeline.runs.editing.edit import Edited, Settings, edit_given, editable
from beeline.runs.solving.tasks import marked
from beeline.sampling.editing.regions import GivenRegion

AUTOMATIC = "auto"  # the name that stands for the best of the methods


@dataclass(frozen=True)
class Job:
    """The arguments of an edit."""

    bundle: str
    method: str
    settings: Mapping[str, str]  # of the method
    sampler: Sequence[str]
    given: Path
    out: Path
    to: tuple[str, ...]
    cond: str | None
    mask: Path | None
    preserve: float | None
    report: Path | None
    seed: int


def perform(job: Job, device: str, quiet: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    """Edit and write; returns what is printed, and the files that could not be edited with the reasons.

    All arguments are checked before any work.  Files of a folder that cannot be read are left out.
    """
    method = None if job.method == AUTOMATIC else chosen_method(job)
    require(
        method is not None or not job.settings,
        "settings of a method were given for auto, which tries several of them; leave them out, or name the method",
    )
    require(job.given.exists(), f"there is no file {job.given}; give the data that are to be edited")
    region = None if job.mask is None else GivenRegion(marked(job.mask).float())
    bundle = load(job.bundle, device=device)
    modality = editable(bundle)
    commands.check_format(modality, job.out if not job.given.is_dir() else Path("x.png").with_suffix(""))
    sampler = commands.sampler_of(bundle, job.sampler)
    targets = [condition(text) for text in job.to]
    old = condition(job.cond)
    how = Settings(region, job.preserve, job.seed, sampler)
    for target in (*targets, *([] if old is None else [old])):
        bundle.condition(target, 1)  # refused before any work
    parts, refused = read(bundle, files_in(job.given), old, targets[0], folder=job.given.is_dir())
    result: dict[str, Any] = {}
    shown: list[tuple[Part, Edited]] = []
    wanted: list[str] = []
    with counting("edit", len(targets) * sum(len(part.x) for part in parts), quiet) as advance:
        for text, target in zip(job.to, targets, strict=True):
            best, name = method, job.method
            if best is None:
                x, own = first_data(parts)
                name, best, trials = try_edits(bundle, x, own, target, how)
                if quiet:
                    result.setdefault("tried", []).extend({"to": text, **t.row} for t in trials)
                else:
                    show(trials)
            done = edited_parts(bundle, best, parts, target, replace(how, watch=advance), refused)
            for part, found in done:
                place = placed(job, part, text)
                place.parent.mkdir(parents=True, exist_ok=True)
                write(modality, found.samples, place)
            shown += done
            wanted.append(name)
    require(shown, f"none of the data could be edited: {'; '.join(refused.values())}")
    if job.report is not None:
        from beeline.cli.report.editing import write_edits

        failed = write_edits(
            job.report, modality, [(part.x, found) for part, found in shown], f"{job.method} to {job.to[0]}"
        )
        result |= {"not written": failed} if failed else {"report": str(job.report)}
    return {**described(job, shown, wanted), **result}, refused


def show(trials: Sequence[Trial]) -> None:
    """Print a table of the methods that were tried, and why the others were not."""
    console.print(table([t.row for t in trials if not t.refused]))
    for why in dict.fromkeys(t.refused for t in trials if t.refused):
        console.print(f"not tried: {', '.join(t.method for t in trials if t.refused == why)}: {why}")


def chosen_method(job: Job) -> Edit:
    """The method with its settings."""
    made: Edit = config.change({"method": config.parse(job.method, "edits")}, job.settings)["method"]
    return made


def edited_parts(
    bundle: Bundle, method: Edit, parts: Sequence[Part], target: Any, how: Settings, refused: dict[str, str]
) -> list[tuple[Part, Edited]]:
    """Every file edited; where there are several, those that cannot be are added to ``refused``."""
    done = []
    for part in parts:
        try:
            done.append((part, edit_given(bundle, method, part.given, part.cond, target, how)))
        except BeelineError as error:
            if len(parts) == 1:
                raise
            refused[str(part.file)] = " ".join(str(error).split())
    return done


def placed(job: Job, part: Part, text: str) -> Path:
    """The file that is written for a file and a target."""
    mark = "" if len(job.to) == 1 else "-" + "".join(c if c.isalnum() or c in "=.-" else "_" for c in text)
    if job.given.is_dir():
        own = part.file.relative_to(job.given)
        return job.out / own.with_name(f"{own.stem}{mark}{own.suffix}")
    return job.out.with_name(f"{job.out.stem}{mark}{job.out.suffix}")


def described(job: Job, shown: Sequence[tuple[Part, Edited]], methods: Sequence[str]) -> dict[str, Any]:
    """What is printed: means over all data, and the largest of largest values."""
    total = sum(len(part.x) for part, _ in shown)
    keys = dict.fromkeys(key for _, found in shown for key in found.summary)
    means: dict[str, Any] = {}
    for key in keys:
        rows = [(found.summary[key], len(part.x)) for part, found in shown if key in found.summary]
        largest = key.startswith("largest")
        means[key] = max(v for v, _ in rows) if largest else sum(v * n for v, n in rows) / sum(n for _, n in rows)
    notes = list(dict.fromkeys(part.given.note for part, _ in shown if part.given.note))
    if any(found.outcome.evaluations == 0 and not bool(found.outcome.change.any()) for _, found in shown):
        notes.append("the condition is that of the input: nothing moves")
    note = {"note": "; ".join(notes)} if notes else {}
    name = ", ".join(dict.fromkeys(methods))
    return {"file": str(job.out), "method": name, "inputs": total, "seed": job.seed, **means, **note}
