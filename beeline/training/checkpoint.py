"""Checkpoints: a directory of safetensors and JSON that is either whole or not there."""

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
from safetensors.torch import load_file, save_file
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.protocols.training import Parallel
from beeline.training.distributed.parallel import SingleDevice, here

MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{8,})")
_STAGED = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: groups of named tensors (one file each), and plain data."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def write(root: Path, checkpoint: Checkpoint, keep: int = 3, engine: Parallel | None = None, spare: int = 0) -> Path:
    """Write a checkpoint under ``root`` and forget all but the newest ``keep``, those that are marked to stay, and the
    one of the step ``spare``.

    The files go to a staged directory, the manifest with their hashes last; everything is flushed to the disk before
    one rename puts it in place.  A process that dies at any moment leaves the earlier checkpoints as they were.
    With an engine of several processes all of them call this; where parameters are divided, each writes its part.
    """
    engine = engine or SingleDevice()
    name = f"step-{checkpoint.step:08d}"
    staged, first = root / f"{_STAGED}{name}", engine.rank == 0
    with _together(engine, checkpoint.step, root, staged):
        if first:
            root.mkdir(parents=True, exist_ok=True)
            sweep(root)
            staged.mkdir()
            if not engine.shards:
                for group, tensors in checkpoint.tensors.items():
                    _save(staged / f"{group}.safetensors", group, tensors)
    if engine.shards:
        with _together(engine, checkpoint.step, root, staged):
            _save_shards(staged, checkpoint)
    with _together(engine, checkpoint.step, root, staged):
        if first:
            (staged / "state.json").write_text(json.dumps(checkpoint.state, indent=1))
            hashes = {path.name: flush(path) for path in sorted(staged.iterdir())}
            path = staged / MANIFEST
            path.write_text(json.dumps({"format": 1, "step": checkpoint.step, "sha256": hashes}, indent=1))
            flush(path)
            flush(staged)
            publish(root, staged, name, keep, spare)
    return root / name


@contextlib.contextmanager
def _together(engine: Parallel, step: int, root: Path, staged: Path) -> Iterator[None]:
    """A part of a save that fails in all processes when it fails in one, and leaves nothing behind."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    failed = error is not None
    if engine.world > 1:
        failed = bool(engine.total(torch.tensor(float(failed), device=here())) > 0)
    if not failed:
        return
    if engine.rank == 0:
        shutil.rmtree(staged, ignore_errors=True)
    if error is not None and not isinstance(error, OSError) and "o space left" not in str(error):
        known = "SafetensorError" in type(error).__name__ or "CheckpointException" in type(error).__name__
        if not known:
            raise error
    reason = getattr(error, "strerror", None) or error or "another process could not write its part"
    raise BeelineError(
        f"the checkpoint of step {step} could not be written to {root} ({reason}); the earlier checkpoints are whole: "
        "free some space, or give another directory, and resume"
    ) from error


def _save(path: Path, group: str, tensors: Mapping[str, Tensor]) -> None:
    save_file({f"{group}/{k}": v.detach().contiguous().cpu() for k, v in tensors.items()}, path)


def _save_shards(staged: Path, checkpoint: Checkpoint) -> None:
    """Every process writes its parts, as safetensors with their place in the whole tensor (torch's own format)."""
    import torch.distributed.checkpoint as shared

    every = {f"{group}/{k}": v.detach() for group, named in checkpoint.tensors.items() for k, v in named.items()}
    require(
        "HuggingFaceStorageWriter" in dir(shared),
        f"a sharded checkpoint was to be written by torch {torch.__version__}, which has no writer of safetensors for "
        "it; use torch 2.8 or later for sharded training, or train with DDP",
    )
    writer = shared.HuggingFaceStorageWriter(str(staged), save_distributed=True)
    with _quiet():
        shared.save(every, storage_writer=writer)


def publish(root: Path, staged: Path, name: str, keep: int, spare: int = 0) -> Path:
    """Put a staged directory in its place and forget the oldest ones."""
    final = root / name
    if final.exists():  # written before, by a run that was resumed from an earlier step
        old = root / f"{_STAGED}old-{name}"
        os.rename(final, old)
    os.rename(staged, final)
    flush(root)
    sweep(root)
    for old in steps(root)[keep:]:
        if number(old) != spare and not stays(old):
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


def state(path: Path) -> dict[str, Any]:
    """The plain data of a checkpoint."""
    found: dict[str, Any] = json.loads((path / "state.json").read_text())
    return found


def read(path: Path) -> Checkpoint:
    """A whole checkpoint in memory, whatever the engine that wrote it."""
    targets = {k: torch.empty(shape, dtype=dtype) for k, (shape, dtype) in contents(path).items()}
    fill(path, targets)
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in state(path).get("groups", [])}
    for key, tensor in targets.items():
        group, name = key.split("/", 1)
        tensors.setdefault(group, {})[name] = tensor
    return Checkpoint(number(path), tensors, state(path))


def contents(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every whole tensor of a checkpoint, from the headers of its files."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            parts = json.loads((opened.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
            for key in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(key)
                start = parts.get(key, {}).get("saved_offsets") or [0] * len(part.get_shape())
                end = tuple(a + b for a, b in zip(start, part.get_shape(), strict=True))
                before = found.get(key, (end, None))[0]
                shape = tuple(max(a, b) for a, b in zip(before, end, strict=True))
                found[key] = (shape, _DTYPES[part.get_dtype()])
    return found


@torch.no_grad()
def fill(path: Path, targets: Mapping[str, Tensor]) -> None:
    """Read the named tensors in place; those that are divided among processes get their part alone."""
    divided = any(hasattr(t, "to_local") for t in targets.values())
    shards = [f for f in path.glob("*.safetensors") if f.name.startswith("shard-")]
    if divided or shards:
        import torch.distributed.checkpoint as shared

        with _quiet():
            reader = shared.HuggingFaceStorageReader(str(path))
            shared.load(dict(targets), storage_reader=reader, no_dist=not divided)
        return
    for file in sorted(path.glob("*.safetensors")):
        for key, tensor in load_file(file).items():
            if key in targets:
                targets[key].copy_(tensor)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch about saving in one process."""
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
