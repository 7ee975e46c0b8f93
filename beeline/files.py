"""Files that are whole or absent: atomic writes, safetensors, hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from beeline.core.types import BeelineError, require


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` that takes its place when the block ends well, and vanishes when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BeelineError(f"there is no file {path}; it belongs to a bundle or a run: check the directory") from None
    except (ValueError, RecursionError) as error:
        raise BeelineError(
            f"{path} is not whole JSON ({error}); it was cut or edited: restore it from a copy"
        ) from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file atomically and give its SHA-256."""
    flat = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    with replacing(path) as temporary:
        save_file(flat, temporary)
    return sha256(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise BeelineError(
            f"there is no file {path}; a bundle keeps its weights there: copy the whole directory"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise BeelineError(
            f"{path} is damaged ({str(error).splitlines()[0]}); it was probably cut while being copied: copy it again"
        ) from None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_matching(module: torch.nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load weights that must match the module name by name; anything missing, left over or misshapen is refused."""
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    match(wanted, {key: tuple(value.shape) for key, value in tensors.items()}, name)
    module.load_state_dict(dict(tensors))


def match(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Refuse weights that do not match a network, by their names and sizes."""
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    shapes = [k for k in wanted if k in found and wanted[k] != found[k]]
    matched = len(wanted) - len(missing) - len(shapes)
    require(
        not (missing or extra or shapes),
        f"{name}: {matched} of {len(wanted)} weights match the network"
        + "".join(
            f"; {word} {rows[:3]}"
            for word, rows in (("missing", missing), ("unknown", extra), ("misshapen", shapes))
            if rows
        )
        + "; the file belongs to another architecture: load it with the flow.json it was saved with",
    )
