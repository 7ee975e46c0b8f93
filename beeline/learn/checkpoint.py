"""Checkpoints: a directory of safetensors and JSON that is either whole or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from beeline.core.types import BeelineError, require

MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{8,})")
_STAGED = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: groups of named tensors (one file each), and plain data."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def write(root: Path, checkpoint: Checkpoint, keep: int = 3) -> Path:
    """Write a checkpoint under ``root`` and forget all but the newest ``keep`` (and those that are marked to stay).

    The files go to a staged directory, the manifest with their hashes last; everything is flushed to the disk before
    one rename puts it in place.  A process that dies at any moment leaves the earlier checkpoints as they were.
    """
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    name = f"step-{checkpoint.step:08d}"
    staged = root / f"{_STAGED}{name}"
    staged.mkdir()
    try:
        hashes = {}
        for group, tensors in checkpoint.tensors.items():
            path = staged / f"{group}.safetensors"
            save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, path)
            hashes[path.name] = flush(path)
        path = staged / "state.json"
        path.write_text(json.dumps(checkpoint.state, indent=1))
        hashes[path.name] = flush(path)
        path = staged / MANIFEST
        path.write_text(json.dumps({"format": 1, "step": checkpoint.step, "sha256": hashes}, indent=1))
        flush(path)
        flush(staged)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise BeelineError(
            f"the checkpoint of step {checkpoint.step} could not be written to {root} ({error.strerror or error}); "
            "the earlier checkpoints are whole: free some space and resume"
        ) from error
    return publish(root, staged, name, keep)


def publish(root: Path, staged: Path, name: str, keep: int) -> Path:
    """Put a staged directory in its place and forget the oldest ones."""
    final = root / name
    if final.exists():  # written before, by a run that was resumed from an earlier step
        old = root / f"{_STAGED}old-{name}"
        os.rename(final, old)
    os.rename(staged, final)
    flush(root)
    sweep(root)
    for old in steps(root)[keep:]:
        if not stays(old):
            remove(old)
    return final


def stays(path: Path) -> bool:
    """Whether a checkpoint is marked to stay when newer ones push it out (where a cooldown can branch off)."""
    try:
        return bool(json.loads((path / "state.json").read_text()).get("stays"))
    except (OSError, ValueError):
        return False


def remove(path: Path) -> None:
    """Delete a checkpoint, the manifest first, so that half of one can never pass for a whole."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def steps(root: Path) -> list[Path]:
    """The checkpoint directories under ``root``, newest first, good or not."""
    found = [p for p in root.iterdir() if _STEP.fullmatch(p.name)] if root.is_dir() else []
    return sorted(found, key=number, reverse=True)


def number(path: Path) -> int:
    """The step of a checkpoint directory."""
    match = _STEP.fullmatch(path.name)
    require(match, f"{path} is no checkpoint: its name is not step-00000000; give a directory that training wrote")
    assert match
    return int(match[1])


def sweep(root: Path) -> None:
    """Remove what an interrupted writer left behind."""
    for left in root.glob(f"{_STAGED}*"):
        kept = root / left.name.removeprefix(f"{_STAGED}old-")
        if left.name.startswith(f"{_STAGED}old-") and not kept.exists():
            os.rename(left, kept)  # the rename that should have replaced it never came
        else:
            shutil.rmtree(left, ignore_errors=True)


def flaw(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file is there and has the hash of the manifest."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        hashes = manifest["sha256"]
    except FileNotFoundError:
        return f"{path / MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path / MANIFEST} cannot be read ({error})"
    for name, wanted in hashes.items():
        try:
            found = digest(path / name)
        except OSError:
            return f"{path / name} is missing"
        if found != wanted:
            return f"{path / name} is damaged: its hash is not the one in the manifest"
    return None


def newest(root: Path, tell: Callable[[str], None] = print, allowed: Callable[[int], bool] = lambda step: True) -> Path:
    """The newest whole checkpoint under ``root`` (or ``root`` itself, when it is one); damaged ones are named.

    Raises BeelineError when there is none.
    """
    if _STEP.fullmatch(root.name):
        wrong = flaw(root)
        require(wrong is None, f"the checkpoint {root} cannot be used: {wrong}; give an earlier one")
        return root
    found = steps(root)
    require(found, f"there is no checkpoint in {root}, so nothing can be resumed; start the run without resuming")
    wrongs = []
    for path in found:
        if not allowed(number(path)):
            continue
        wrong = flaw(path)
        if wrong is None:
            return path
        wrongs.append(wrong)
        tell(f"{wrong}; going back to the checkpoint before it")
    raise BeelineError(
        f"no checkpoint in {root} can be used: {'; '.join(wrongs) or 'none is early enough'}; "
        "restore one from a copy, or start the run again"
    )


def read(path: Path) -> Checkpoint:
    """Read a checkpoint whose hashes were verified."""
    state = json.loads((path / "state.json").read_text())
    tensors = {p.stem: load_file(p) for p in sorted(path.glob("*.safetensors"))}
    return Checkpoint(number(path), tensors, state)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    total = hashlib.sha256()
    while block := file.read(1 << 20):
        total.update(block)
    return total.hexdigest()


def flush(path: Path) -> str:
    """Force a file (or the entries of a directory) to the disk; the hash of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return digest(path) if path.is_file() else ""


def settings(part: Any) -> Any:
    """A component as plain data for comparison: dataclasses by field, functions by name, tensors by their hash."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {f.name: settings(getattr(part, f.name)) for f in dataclasses.fields(part)}
        return {"is": type(part).__name__} | fields
    if isinstance(part, Mapping):
        return {str(k): settings(v) for k, v in part.items()}
    if isinstance(part, list | tuple):
        return [settings(v) for v in part]
    if isinstance(part, Tensor):
        raw = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"tensor {list(part.shape)} {hashlib.sha256(raw).hexdigest()[:16]}"
    if part is None or isinstance(part, bool | int | float | str):
        return part
    return getattr(part, "__qualname__", type(part).__qualname__)


def difference(old: Any, new: Any, name: str = "") -> list[str]:
    """Lines ``name: old -> new`` for every setting that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in difference(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]
