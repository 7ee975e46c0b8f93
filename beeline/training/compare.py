"""Settings as plain data, fingerprints of code and data, and their differences."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beeline.core.declared import fields_of
from beeline.core.errors import require
from beeline.core.protocols.training import Feed, Microbatches
from beeline.core.types import Batch, leaves
from beeline.training.feed.microbatches import FromDistribution, InMemory, Stateless

WHOLE = 64 << 20  # bytes; tensors up to this size are hashed completely
SUMMED = 4 << 30  # bytes; for tensors up to this size the sum of all bits is included
ROWS = 4096  # evenly spaced rows that are hashed of a larger tensor
_GENERATED = ("init", "eq", "repr", "hash", "setattr", "delattr", "replace")  # methods that dataclass generates
_LIBRARY = ("beeline", "torch", "numpy", "builtins", "math", "functools", "operator", "collections", "pathlib")


def settings(part: Any) -> Any:
    """A component as plain data for comparison.

    Dataclasses become mappings of their fields, tensors and networks hashes of their content, functions name and
    bytecode, other objects class, bytecode of the class and attributes.  Functions and classes of Beeline, torch, numpy
    and the standard library are identified by name alone.
    """
    return _settings(part, ())


def _settings(part: Any, seen: tuple[int, ...]) -> Any:
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if id(part) in seen:
        return "..."
    seen = (*seen, id(part))
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {name: _settings(value, seen) for name, value in fields_of(part).items()}
        return {"is": type(part).__name__} | _code_of(type(part)) | fields
    if isinstance(part, Mapping):
        return {str(k): _settings(v, seen) for k, v in part.items()}
    if isinstance(part, list | tuple):
        return [_settings(v, seen) for v in part]
    if isinstance(part, Tensor):
        return fingerprint(part)
    if isinstance(part, np.ndarray | np.generic):
        return fingerprint(torch.as_tensor(part))
    if isinstance(part, nn.Module):
        tensors = {k: fingerprint(v) for k, v in part.state_dict().items()}
        return f"{type(part).__name__} {_short(json.dumps([tensors, _code_of(type(part))]))}"
    if isinstance(part, type):
        return part.__qualname__
    if isinstance(part, torch.dtype | torch.device):
        return str(part)
    if isinstance(part, functools.partial):
        return {"is": "partial", **_settings({"func": part.func, "args": part.args, "keywords": part.keywords}, seen)}
    if isinstance(part, types.MethodType):
        return {"is": part.__func__.__qualname__, "of": _settings(part.__self__, seen)}
    if isinstance(part, types.FunctionType):
        return _function(part, seen)
    name = getattr(part, "__qualname__", type(part).__qualname__)
    if _is_library(type(part)) or not hasattr(part, "__dict__"):
        return name
    attributes = {k: _settings(v, seen) for k, v in sorted(vars(part).items()) if not k.startswith("_")}
    return {"is": name} | _code_of(type(part)) | attributes


def _function(part: types.FunctionType, seen: tuple[int, ...]) -> Any:
    """A function by its name, its bytecode unless it is of a library, its defaults and its closure."""
    closure = [c.cell_contents for c in part.__closure__ or () if _filled(c)]
    values = _settings([part.__defaults__ or (), part.__kwdefaults__ or {}, closure], seen)
    code = [] if _is_library(part) else [_code(part.__code__)]
    if not code and values == [[], {}, []]:
        return part.__qualname__
    return f"{part.__qualname__} {_short(json.dumps([*code, values]))}"


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_library(part: Any) -> bool:
    """Whether code belongs to a library, which is identified by name instead of bytecode."""
    return (part.__module__ or "").split(".")[0] in _LIBRARY


def _code_of(cls: type) -> dict[str, str]:
    """A hash of the bytecode of the methods of a user's class."""
    own = [c for c in cls.__mro__ if not _is_library(c)]
    methods = [f for c in own for _, f in sorted(vars(c).items()) if isinstance(f, types.FunctionType)]
    mine = [_code(f.__code__) for f in methods if f.__name__.strip("_") not in _GENERATED]
    return {"code": _short(json.dumps(mine))} if mine else {}


def _code(code: types.CodeType) -> list[Any]:
    """A code object as plain data, without file name and line numbers; it depends on the version of Python."""
    constants = [
        _code(c) if isinstance(c, types.CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
        for c in code.co_consts
    ]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [version, code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(tensor: Tensor) -> str:
    """Shape, dtype and a hash of the content: all of it up to 64 MiB, else 4,096 rows, and the sum up to 4 GiB."""
    part = tensor.detach()
    header = f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}"
    size = part.numel() * part.element_size()
    if size <= WHOLE:
        return f"{header} {_short_bytes([part])}"
    rows = torch.linspace(0, len(part) - 1, min(ROWS, len(part)), dtype=torch.float64).round().long()
    total = sum(_sum(block) for block in part.split(max(1, len(part) * WHOLE // size))) if size <= SUMMED else 0
    return f"{header} {_short_bytes([part[rows.to(part.device)]])} {total % 2**64:016x}"


def _bytes(part: Tensor) -> Tensor:
    flat = part.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten()
    return flat.view(torch.uint8) if flat.numel() else torch.empty(0, dtype=torch.uint8)


def _short_bytes(parts: Iterable[Tensor]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(_bytes(part).numpy().data)
    return total.hexdigest()[:16]


def _sum(part: Tensor) -> int:
    """The sum of the bits as integers, which does not depend on the order of summation."""
    raw = _bytes(part)
    return int((raw.view(torch.int32) if len(raw) % 4 == 0 else raw).sum(dtype=torch.int64))


def data(microbatches: Microbatches) -> dict[str, Any]:
    """The fingerprint of training data: of all data in memory, their identity, or a microbatch of ``PROBED`` data."""
    if isinstance(microbatches, InMemory):
        return batch(microbatches.batch)
    if isinstance(microbatches, Feed) and microbatches.identity:
        return {"is": type(microbatches).__name__, **microbatches.identity}
    source: Any = microbatches.data if isinstance(microbatches, Stateless) else microbatches
    source = source.distribution if isinstance(source, FromDistribution) else source
    return {"is": type(source).__name__} | batch(microbatches.microbatch(0, PROBED))


PROBED = 16  # size of the microbatch that is hashed of data that are not in memory


def batch(found: Batch) -> dict[str, str]:
    """The fingerprint of every part of a batch."""
    parts = [("x1", found.x1), ("x0", found.x0), ("weight", found.weight), *leaves(found.cond, "cond")]
    return {name: fingerprint(part) for name, part in parts if part is not None}


def difference(old: Any, new: Any, name: str = "") -> list[str]:
    """Lines ``name: old -> new``, one for every setting that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in difference(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]


CHANGEABLE = tuple(
    f"training.{name}:"
    for name in ("steps", "checkpoint_every", "checkpoint_keep", "watch_every", "max_recoveries", "workers")
)
"""Settings that may change when a run is resumed."""


def check_resumable(root: Path, saved: Mapping[str, Any], settings: Mapping[str, Any], fork: bool) -> list[str]:
    """The settings that differ from those of a checkpoint's state; raises ValueError if it cannot be resumed."""
    changed = [line for line in difference(saved["settings"], settings) if not line.startswith(CHANGEABLE)]
    others = [line for line in changed if line.startswith("data.")]
    require(
        fork or not others,
        f"the data differ from those of the run in {root} ({'; '.join(others)}), so it cannot be resumed; give the "
        "same data, or fork a new run from its checkpoint",
    )
    require(
        fork or not changed,
        f"the run in {root} has other settings ({'; '.join(changed)}), so it cannot be resumed; give the same "
        "settings, or fork a new run from its checkpoint",
    )
    steps = int(settings["training"]["steps"])
    require(
        steps >= saved["step"],
        f"the run in {root} has {saved['step']} steps already, training.steps is {steps}; "
        "raise training.steps to continue",
    )
    return changed
