"""Checkpoints: directories of safetensors and JSON, written atomically and verified by hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.old_names import translate_group, translate_state
from beeline.training.distributed.parallel import is_sharded

MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{8,})")
STAGED = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint: groups of named tensors (one file each), and JSON data."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def publish(root: Path, staged: Path, name: str, keep: int, protect: int = 0) -> Path:
    """Rename a staging directory to its final name and delete the oldest checkpoints."""
    final = root / name
    if final.exists():  # from before the run was resumed at an earlier step
        old = root / f"{STAGED}old-{name}"
        os.rename(final, old)
    os.rename(staged, final)
    flush(root)
    clean_up(root)
    for old in steps(root)[keep:]:
        if number(old) != protect and not is_permanent(old):
            remove(old)
    return final


def is_permanent(path: Path) -> bool:
    """Whether a checkpoint is excluded from deletion: the one at the start of a cooldown, where a run can branch."""
    try:
        found = json.loads((path / "state.json").read_text())
        return bool(found.get("permanent", found.get("stays")))  # "stays" in files of version 0.1
    except (OSError, ValueError):
        return False


def remove_later(root: Path, step: int) -> None:
    """Delete the checkpoints and snapshots after ``step``, of a run that returns to it with other learning rates."""
    for path in (*steps(root), *steps(root / "snapshots")):
        if number(path) > step:
            remove(path)


def remove(path: Path) -> None:
    """Delete a checkpoint, the manifest first, so that a partly deleted one is never valid."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def steps(root: Path) -> list[Path]:
    """The checkpoint directories under ``root``, newest first, not verified."""
    found = [p for p in root.iterdir() if _STEP.fullmatch(p.name)] if root.is_dir() else []
    return sorted(found, key=number, reverse=True)


def number(path: Path) -> int:
    """The step of a checkpoint directory."""
    match = _STEP.fullmatch(path.name)
    require(
        match,
        f"{path} is not a checkpoint: its name is not of the form step-00000000; give a directory that training wrote",
    )
    assert match
    return int(match[1])


def clean_up(root: Path) -> None:
    """Remove the staging directories of an interrupted writer, and restore a checkpoint that it was replacing."""
    for left in root.glob(f"{STAGED}*"):
        final = root / left.name.removeprefix(f"{STAGED}old-")
        if left.name.startswith(f"{STAGED}old-") and not final.exists():
            os.rename(left, final)  # its replacement was never renamed
        else:
            shutil.rmtree(left, ignore_errors=True)


def flaw(path: Path) -> str | None:
    """The first missing or damaged file of a checkpoint, as text; None if all files match their hashes."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        hashes = manifest["sha256"]
    except FileNotFoundError:
        return f"{path / MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path / MANIFEST} cannot be read ({error})"
    for name, expected in hashes.items():
        try:
            found = digest(path / name)
        except OSError:
            return f"{path / name} is missing"
        if found != expected:
            return f"{path / name} is damaged: its hash differs from the manifest"
    return None


def newest(root: Path, warn: Callable[[str], None] = print, allowed: Callable[[int], bool] = lambda step: True) -> Path:
    """The newest valid checkpoint under ``root`` (or ``root`` itself, if it is one) whose step is ``allowed``.

    Damaged checkpoints are skipped and reported to ``warn``.  Raises BeelineError if there is no valid one.
    """
    if _STEP.fullmatch(root.name):
        wrong = flaw(root)
        require(wrong is None, f"the checkpoint {root} cannot be used: {wrong}; give an earlier one")
        return root
    found = steps(root)
    require(found, f"there is no checkpoint in {root}, so the run cannot be resumed; start it without resume")
    reasons = []
    for path in found:
        if not allowed(number(path)):
            continue
        wrong = flaw(path)
        if wrong is None:
            return path
        reasons.append(wrong)
        warn(f"{wrong}; the previous checkpoint is used instead")
    raise BeelineError(
        f"no checkpoint in {root} can be used: {'; '.join(reasons) or 'none is early enough'}; "
        "restore one from a backup, or start the run again"
    )


def state(path: Path) -> dict[str, Any]:
    """The JSON data of a checkpoint."""
    found: dict[str, Any] = json.loads((path / "state.json").read_text())
    return translate_state(found, path / "state.json")


def read(path: Path) -> Checkpoint:
    """Read a checkpoint into memory, sharded or not."""
    targets = {k: torch.empty(shape, dtype=dtype) for k, (shape, dtype) in contents(path).items()}
    fill(path, targets)
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in state(path).get("groups", [])}
    for key, tensor in targets.items():
        group, name = key.split("/", 1)
        tensors.setdefault(group, {})[name] = tensor
    return Checkpoint(number(path), tensors, state(path))


def contents(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every full tensor of a checkpoint, from the headers of its files."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            parts = json.loads((opened.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
            for old in opened.keys():  # noqa: SIM118
                part, key = opened.get_slice(old), translate_group(old)
                start = parts.get(old, {}).get("saved_offsets") or [0] * len(part.get_shape())
                end = tuple(a + b for a, b in zip(start, part.get_shape(), strict=True))
                before = found.get(key, (end, None))[0]
                shape = tuple(max(a, b) for a, b in zip(before, end, strict=True))
                found[key] = (shape, _DTYPES[part.get_dtype()])
    return found


@torch.no_grad()
def fill(path: Path, targets: Mapping[str, Tensor]) -> None:
    """Read the named tensors in place; a sharded target gets its own shard."""
    sharded = any(is_sharded(t) for t in targets.values())
    shards = [f for f in path.glob("*.safetensors") if f.name.startswith("shard-")]
    if sharded or shards:
        import torch.distributed.checkpoint as dcp

        with _without_warnings():
            reader = dcp.HuggingFaceStorageReader(str(path))
            stored = {translate_group(key): key for key in reader.read_metadata().state_dict_metadata}
            wanted = {stored.get(key, key): target for key, target in targets.items()}
            dcp.load(wanted, storage_reader=reader, no_dist=not sharded)
        return
    for file in sorted(path.glob("*.safetensors")):
        for old, tensor in load_file(file).items():
            key = translate_group(old)
            if key in targets:
                targets[key].copy_(tensor)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress the warnings of torch about saving in one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def flush(path: Path) -> str:
    """Flush a file, or the entries of a directory, to disk; the SHA-256 of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return digest(path) if path.is_file() else ""
