"""A cache of encoded data: named by what went in, verified before use, safe when two processes build it at once."""

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

from safetensors.torch import load_file, save_file
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.types import Batch, Cond, leaves
from beeline.training.checkpoint import MANIFEST, digest, flaw, flush
from beeline.training.compare import settings


def encoded(
    folder: str | Path,
    inputs: Mapping[str, Any],
    build: Callable[[], Batch],
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Batch:
    """The batch that ``build`` makes, from the cache under ``folder`` when it was made before of the same inputs.

    ``inputs`` are all that the result depends on (data, encoder, transform: components, arrays, files, plain values);
    a change of any of them is another entry.  The tensors are mapped from the file, not read: a data set larger than
    memory can be trained on.  A second process that asks while the first one builds waits, and takes what was built.
    """
    root = Path(folder)
    entry = root / address(inputs)
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{entry.name}.lock"):
        if entry.is_dir():
            wrong = flaw(entry)
            if wrong is None:
                return _read(entry)
            tell(f"{wrong}; the entry of the cache is built again")
            shutil.rmtree(entry, ignore_errors=True)
        _write(entry, build(), inputs)
    return _read(entry)


def address(inputs: Mapping[str, Any]) -> str:
    """The name of an entry: a hash of everything that went in."""
    parts = {name: _fingerprint(part) for name, part in inputs.items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _fingerprint(part: Any) -> Any:
    if isinstance(part, Path):
        require(part.exists(), f"the cache depends on {part}, which does not exist; check the path")
        if part.is_dir():
            files = sorted(p for p in part.rglob("*") if p.is_file())
            return {str(p.relative_to(part)): digest(p) for p in files}
        return digest(part)
    if hasattr(part, "__array_interface__"):
        raw = part if part.flags["C_CONTIGUOUS"] else part.copy()
        return f"array {raw.dtype} {list(raw.shape)} {hashlib.sha256(raw.data).hexdigest()}"
    return settings(part)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock of a process that died is free."""
    try:
        import fcntl
    except ImportError:  # a system without file locks: the rename at the end still keeps entries whole
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
        if entry.is_dir() and flaw(entry) is None:  # another process was first
            return
        raise BeelineError(
            f"the cache entry {entry} could not be written ({error.strerror or error}); nothing was left behind: free "
            "some space, give another folder, or train without a cache"
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _read(entry: Path) -> Batch:
    tensors = load_file(entry / "data.safetensors")
    cond: Any = tensors.get("cond")
    for name, leaf in tensors.items():
        if name.startswith("cond."):
            cond = {} if cond is None else cond
            _put(cond, name.removeprefix("cond.").split("."), leaf)
    made: Cond = cond
    return Batch(tensors["x1"], tensors.get("x0"), made, tensors.get("weight"))


def _put(tree: dict[str, Any], names: list[str], leaf: Tensor) -> None:
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
    tree[names[-1]] = leaf
