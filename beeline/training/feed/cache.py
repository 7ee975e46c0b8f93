"""Cache of encoded data, addressed by a hash of its inputs, verified before use, safe with concurrent processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.types import Batch, leaves
from beeline.training.checkpoint import MANIFEST, digest, flaw, flush
from beeline.training.compare import settings


def encoded(
    folder: str | Path,
    inputs: Mapping[str, Any],
    build: Callable[[], Batch],
    warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Batch:
    """The batch that ``build`` returns, read from the cache under ``folder`` if an entry for ``inputs`` exists.

    ``inputs``: everything that the result depends on (data, encoder, transform: components, arrays, files, plain
    values); other inputs give another entry.  The tensors are memory-mapped, so a data set may be larger than memory.
    A second process waits while the first one builds the entry.  ``warn`` gets a message if an entry is damaged.

    Raises BeelineError if an input file does not exist or the entry cannot be written.
    """
    root = Path(folder)
    entry = root / address(inputs)
    root.mkdir(parents=True, exist_ok=True)
    with waiting_lock(root / f"{entry.name}.lock"):
        if entry.is_dir():
            wrong = flaw(entry)
            if wrong is None:
                return _read(entry)
            warn(f"{wrong}; the cache entry is built again")
            shutil.rmtree(entry, ignore_errors=True)
        _write(entry, build(), inputs)
    return _read(entry)


def address(inputs: Mapping[str, Any]) -> str:
    """The name of an entry: a hash of its inputs."""
    parts = {name: _fingerprint(part) for name, part in inputs.items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _fingerprint(part: Any) -> Any:
    if isinstance(part, Path):
        require(part.exists(), f"{part}, an input of the cache, does not exist; check the path")
        if part.is_dir():
            files = sorted(p for p in part.rglob("*") if p.is_file())
            return {str(p.relative_to(part)): digest(p) for p in files}
        return digest(part)
    if isinstance(part, np.ndarray):
        raw = part if part.flags["C_CONTIGUOUS"] else part.copy()
        return f"array {raw.dtype} {list(raw.shape)} {hashlib.sha256(raw.data).hexdigest()}"
    return settings(part)


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Context manager: one process at a time, others wait; the lock of a dead process is released."""
    try:
        import fcntl
    except ImportError:  # no file locks on this system; the rename at the end is still atomic
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(entry: Path, batch: Batch, inputs: Mapping[str, Any]) -> None:
    staged = entry.with_name(f".writing-{entry.name}-{uuid.uuid4().hex}")
    staged.mkdir()
    try:
        tensors = {"x1": batch.x1}
        tensors |= {} if batch.x0 is None else {"x0": batch.x0}
        tensors |= {} if batch.weight is None else {"weight": batch.weight}
        tensors |= {f"cond.{name}" if name else "cond": leaf for name, leaf in leaves(batch.cond)}
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, staged / "data.safetensors")
        (staged / "inputs.json").write_text(json.dumps({k: _fingerprint(v) for k, v in inputs.items()}, indent=1))
        hashes = {p.name: flush(p) for p in sorted(staged.iterdir())}
        (staged / MANIFEST).write_text(json.dumps({"format": 1, "sha256": hashes}, indent=1))
        flush(staged / MANIFEST)
        os.rename(staged, entry)
    except OSError as error:
        if entry.is_dir() and flaw(entry) is None:  # written by another process meanwhile
            return
        raise BeelineError(
            f"the cache entry {entry} could not be written ({error.strerror or error}); free disk space, give another "
            "folder, or train without a cache"
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _read(entry: Path) -> Batch:
    tensors = load_file(entry / "data.safetensors")
    cond: Any = tensors.get("cond")
    for name, leaf in tensors.items():
        if name.startswith("cond."):
            cond = {} if cond is None else cond
            _insert(cond, name.removeprefix("cond.").split("."), leaf)
    return Batch(tensors["x1"], tensors.get("x0"), cond, tensors.get("weight"))


def _insert(tree: dict[str, Any], names: list[str], leaf: Tensor) -> None:
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
    tree[names[-1]] = leaf
