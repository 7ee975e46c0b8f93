"""Files that are whole or absent: atomic writes, safetensors, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError, safe_open

from beeline.core.errors import BeelineError, require

if TYPE_CHECKING:  # the commands that list files start without torch
    import torch
    from torch import Tensor

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` that takes its place when the block ends well, and vanishes when not.

    Raises BeelineError, which names the file, when the disk is full or the folder cannot be written; what was there
    before stays as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise unwritten(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


PART = ".part"  # the end of the name of a file that is being written
LOCK = ".lock"  # the file that says which process works in a directory


def unwritten(path: Path, error: Exception) -> BeelineError:
    """The refusal of a file that could not be written."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
    return BeelineError(
        f"{path} could not be written ({reason}); what was there before is as it was: free some space, check the "
        "rights of the folder, or give another path"
    )


def flush_folder(path: Path) -> None:
    """Force the entries of a folder to the disk, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove files below ``folder`` that a process that died was writing."""
    for left in folder.rglob(f".*{PART}"):
        left.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; BeelineError, which names the holder, when another process has it.

    The lock ends with the process, however it ends.  A missing folder is created, and removed again if it stays
    empty.  On systems without file locks nothing is held.
    """
    created = [p for p in (folder, *folder.parents) if not p.exists()]
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _opened(path)
    except OSError as error:
        raise unwritten(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        _held.discard(file)
        os.close(file)
        with contextlib.suppress(OSError):  # not empty
            for one in created:
                one.rmdir()


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process holds the file ``path`` in the block; False where another one does.

    The claim ends with the process, however it ends.  On systems without file locks every process holds it.
    """
    try:
        file = _opened(path)
    except BeelineError:
        yield False
        return
    except OSError as error:
        raise unwritten(path, error) from error
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        _held.discard(file)
        os.close(file)


def in_use(folder: Path) -> bool:
    """Whether a process holds the lock of a folder; False on systems without file locks."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(file)


def _opened(path: Path) -> int:
    """A locked file with the process and the machine in it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = os.read(file, 200).decode("utf-8", "replace").strip()
            os.close(file)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise BeelineError(
                f"{path.parent} is in use by {who or 'another process'}; two processes would write over each other's "
                "files: wait until it ends, stop it, or give another directory"
            ) from None
        if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
            break
        os.close(file)  # the holder has just removed it: once more
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _held.add(file)
    return file


_held: set[int] = set()  # locked files of this process


def _let_go() -> None:
    """A forked child does not hold what its parent holds; otherwise the lock would outlive the parent."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


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


def read_plain(path: Path) -> Any:
    """The plain data of a YAML file; refused with its line when it is not YAML."""
    try:
        data = _named(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:  # of dates, numbers, depth
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        at = "" if mark is None else f", line {mark.line + 1}"
        raise BeelineError(
            f"{path}{at} is not YAML; write one with 'beeline describe digits --yaml' and edit it"
        ) from None
    require(
        isinstance(data, dict),
        f"{path} holds {type(data).__name__}, not settings by name; see 'beeline describe digits --yaml'",
    )
    return data


def _named(data: Any, depth: int = 0) -> Any:
    """Plain data with the name "null", which YAML reads as no value, given back."""
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(data, dict):
        return {"null" if key is None else key: _named(value, depth + 1) for key, value in data.items()}
    return [_named(value, depth + 1) for value in data] if isinstance(data, list) else data


DEEPEST = 100  # levels of nesting that are read; far more than any setting has, far less than exhausts the stack


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file atomically, with texts in its header, and give its SHA-256."""
    from safetensors.torch import save_file

    flat = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    with replacing(path) as temporary:
        save_file(flat, temporary, None if header is None else dict(header))
    return sha256(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    return read_with_header(path)[1]


def read_with_header(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The texts in the header of a safetensors file, and its tensors; ValueError where it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return dict(file.metadata() or {}), tensors
    except FileNotFoundError:
        raise BeelineError(
            f"there is no file {path}; a bundle keeps its weights there: copy the whole directory"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise BeelineError(
            f"{path} is damaged ({str(error).splitlines()[0]}); it was probably cut while being copied: copy it again"
        ) from None


def settings_in(header: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    """The settings in the header of a safetensors file; ValueError where they are no mapping in JSON."""
    try:
        said = json.loads(header[key])
    except json.JSONDecodeError:
        said = None
    require(
        isinstance(said, dict),
        f"{path} has {header[key][:80]!r} under {key!r} in its header, which is no mapping in JSON; the file was "
        "changed by hand or damaged: write it again",
    )
    return dict(said)


def sha256(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def digest(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """SHA-256 over texts, and over names, dtypes, shapes and bytes of tensors."""
    import torch  # late: the commands that list files start without it

    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\0")
    for name in sorted(tensors):
        part = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{part.dtype}:{tuple(part.shape)}".encode())
        total.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


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
