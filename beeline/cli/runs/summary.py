"""What the files of a run say about it, read without torch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beeline.config.translation import read_description
from beeline.core.errors import BeelineError, nearest
from beeline.core.files import in_use

TAIL = 1 << 18  # bytes at the end of a log, in which the last evaluation is looked for


@dataclass(frozen=True)
class Summary:
    """A run in a line."""

    name: str
    path: str
    state: str  # running, finished or interrupted
    step: int
    steps: int
    recipe: str
    data: str
    heldout: float | None  # the last held-out loss, of the averaged weights where there are any
    scores: Mapping[str, float]
    updated: float  # seconds since the epoch
    size: int  # bytes on disk

    def plain(self) -> dict[str, Any]:
        """As plain data, with the age in seconds."""
        return asdict(self) | {"age": round(time.time() - self.updated, 1)}


def is_run(folder: Path) -> bool:
    """Whether a directory is that of a run."""
    return (folder / "run.yaml").is_file()


def summaries(root: Path) -> list[Summary]:
    """The runs in a folder, the newest first; unreadable ones are left out."""
    if not root.is_dir():
        return []
    found = [summary(folder, root) for folder in sorted(root.iterdir()) if is_run(folder)]
    return sorted((s for s in found if s is not None), key=lambda s: -s.updated)


def summary(folder: Path, root: Path | None = None) -> Summary | None:
    """The summary of a run; None if its run.yaml cannot be read."""
    try:
        described = read_description(folder / "run.yaml")
    except BeelineError:
        return None
    last = tail(folder / "log.jsonl")
    step = int(last[-1]["step"]) if last else 0
    steps = planned(folder, described)
    whole = (folder / "bundle" / "flow.json").is_file() and step >= steps
    held = next((e["heldout"] for e in reversed(last) if isinstance(e.get("heldout"), dict)), None)
    return Summary(
        name=str(folder if root is None else folder.relative_to(root)),
        path=str(folder),
        state="running" if in_use(folder) else "finished" if whole else "interrupted",
        step=step,
        steps=steps,
        recipe=recipe(described),
        data=data(described),
        heldout=None if held is None else float((held.get("ema") or held["raw"])["value"]),
        scores=scores(folder),
        updated=max(file.stat().st_mtime for file in (folder / "run.yaml", folder / "log.jsonl") if file.is_file()),
        size=size(folder),
    )


def recipe(described: Mapping[str, Any]) -> str:
    """What is trained: network and objective, or the distillation and its teacher."""
    if "teacher" in described:
        return f"{short(described['method'])} of {described['teacher']}"
    return f"{short(described.get('network'))}, {short(described.get('objective'))}"


def data(described: Mapping[str, Any]) -> str:
    """The path of the data, or the name of the data set."""
    found = described.get("data") or {}
    return str(found.get("path") or short(found)) if found else "of the teacher"


def short(part: Any) -> str:
    """The name of a component without its kind."""
    return str(part.get("is", "")).rpartition(".")[2] if isinstance(part, Mapping) else str(part)


def planned(folder: Path, described: Mapping[str, Any]) -> int:
    """The number of steps of a run, which early stopping may have reduced."""
    steps = int((described.get("training") or {}).get("steps", 0))
    saved = sorted((folder / "checkpoints").glob("step-*/state.json"))
    try:
        notes = json.loads(saved[-1].read_text(encoding="utf-8")).get("notes", {}) if saved else {}
        return min(steps, int(notes.get("steps", steps)))
    except (ValueError, OSError, AttributeError):
        return steps


def tail(log: Path) -> list[dict[str, Any]]:
    """The last entries of a log."""
    try:
        with open(log, "rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(start)
            lines = file.read().decode("utf-8", "replace").splitlines()[1 if start else 0 :]
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and type(entry.get("step")) is int and "loss" in entry:
            found.append(entry)
    return found


def scores(folder: Path) -> dict[str, float]:
    """The scores of the bundle of a run by its own sampler; empty without a report."""
    try:
        bundle = json.loads((folder / "bundle" / "flow.json").read_text(encoding="utf-8"))
        quality = (bundle.get("lineage") or {}).get("quality") or {}
        found: Mapping[str, float] = quality.get(folder.name) or next(reversed(quality.values()), {})
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:  # removed in the meantime
                continue
    return total


def find(name: str, root: Path) -> Path:
    """The directory of a run, given by its name in ``root`` or by its path; BeelineError names the nearest run."""
    given = [root / name, Path(name)] if name.strip() else []
    for folder in given:
        if is_run(folder):
            return folder
    there = next((folder for folder in given if folder.exists()), None)
    if there is not None:
        raise BeelineError(f"{there} is not the directory of a run (it has no run.yaml); see 'beeline runs' for names")
    known = [one.name for one in summaries(root)]
    raise BeelineError(f"there is no run {name!r} in {root}; {nearest(name, known)}")
