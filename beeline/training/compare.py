"""Settings as plain data, fingerprints of code and data, and what differs between two of them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.protocols.training import Microbatches
from beeline.core.types import Batch, leaves
from beeline.training.feed.microbatches import FromDistribution, InMemory

WHOLE = 64 << 20  # bytes up to which a tensor is hashed as a whole
SUMMED = 4 << 30  # bytes up to which the sum of a larger one is taken beside sampled rows
ROWS = 4096  # rows of a larger tensor that are hashed, evenly spaced
_MADE = ("init", "eq", "repr", "hash", "setattr", "delattr", "replace")  # methods that a dataclass writes
_LIBRARY = ("beeline", "torch", "numpy", "builtins", "math", "functools", "operator", "collections", "pathlib")


def settings(part: Any) -> Any:
    """A component as plain data for comparison.

    Dataclasses by field, tensors and networks by their content, functions by name and code, other objects by class,
    code of the class and attributes.  Code of Beeline, torch, numpy and the standard library counts by its name alone.
    """
    return _settings(part, ())


def _settings(part: Any, seen: tuple[int, ...]) -> Any:
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if id(part) in seen:
        return "..."
    seen = (*seen, id(part))
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {f.name: _settings(getattr(part, f.name), seen) for f in dataclasses.fields(part)}
        return {"is": type(part).__name__} | _code_of(type(part)) | fields
    if isinstance(part, Mapping):
        return {str(k): _settings(v, seen) for k, v in part.items()}
    if isinstance(part, list | tuple):
        return [_settings(v, seen) for v in part]
    if isinstance(part, Tensor):
        return fingerprint(part)
    if hasattr(part, "__array_interface__"):
        return fingerprint(torch.as_tensor(part))
    if isinstance(part, nn.Module):
        held = {k: fingerprint(v) for k, v in part.state_dict().items()}
        return f"{type(part).__name__} {_short(json.dumps([held, _code_of(type(part))]))}"
    if isinstance(part, type | torch.dtype | torch.device):
        return getattr(part, "__qualname__", str(part))
    if isinstance(part, functools.partial):
        return {"is": "partial"} | {k: _settings(getattr(part, k), seen) for k in ("func", "args", "keywords")}
    if isinstance(part, types.MethodType):
        return {"is": part.__func__.__qualname__, "of": _settings(part.__self__, seen)}
    if isinstance(part, types.FunctionType):
        return _function(part, seen)
    name = getattr(part, "__qualname__", type(part).__qualname__)
    if _ours(type(part)) or not hasattr(part, "__dict__"):
        return name
    held = {k: _settings(v, seen) for k, v in sorted(vars(part).items()) if not k.startswith("_")}
    return {"is": name} | _code_of(type(part)) | held


def _function(part: types.FunctionType, seen: tuple[int, ...]) -> Any:
    """A function by its name, its code where it is the user's, its defaults and what it closes over."""
    closed = [c.cell_contents for c in part.__closure__ or () if _filled(c)]
    held = _settings([part.__defaults__ or (), part.__kwdefaults__ or {}, closed], seen)
    code = [] if _ours(part) else [_code(part.__code__)]
    if not code and held == [[], {}, []]:
        return part.__qualname__
    return f"{part.__qualname__} {_short(json.dumps([*code, held]))}"


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _ours(part: Any) -> bool:
    """Whether code belongs to a library, whose changes are told by its version and not by a hash."""
    return (part.__module__ or "").split(".")[0] in _LIBRARY


def _code_of(cls: type) -> dict[str, str]:
    """The code of the methods of a user's class."""
    own = [c for c in cls.__mro__ if not _ours(c)]
    every = [f for c in own for _, f in sorted(vars(c).items()) if isinstance(f, types.FunctionType)]
    mine = [_code(f.__code__) for f in every if f.__name__.strip("_") not in _MADE]
    return {"code": _short(json.dumps(mine))} if mine else {}


def _code(code: types.CodeType) -> list[Any]:
    """What a code object does, without its place in a file; the version of Python decides how it is written."""
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
    form = f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}"
    size = part.numel() * part.element_size()
    if size <= WHOLE:
        return f"{form} {_short_bytes([part])}"
    rows = torch.linspace(0, len(part) - 1, min(ROWS, len(part)), dtype=torch.float64).round().long()
    total = sum(_sum(block) for block in part.split(max(1, len(part) * WHOLE // size))) if size <= SUMMED else 0
    return f"{form} {_short_bytes([part[rows.to(part.device)]])} {total % 2**64:016x}"


def _bytes(part: Tensor) -> Tensor:
    flat = part.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten()
    return flat.view(torch.uint8) if flat.numel() else torch.empty(0, dtype=torch.uint8)


def _short_bytes(parts: Iterable[Tensor]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(_bytes(part).numpy().data)
    return total.hexdigest()[:16]


def _sum(part: Tensor) -> int:
    """The sum of the bits, which no order of summation changes."""
    raw = _bytes(part)
    return int((raw.view(torch.int32) if len(raw) % 4 == 0 else raw).sum(dtype=torch.int64))


def data(microbatches: Microbatches) -> dict[str, Any]:
    """The fingerprint of training data: every part of data in memory, the first microbatch of all others."""
    if isinstance(microbatches, InMemory):
        return batch(microbatches.batch)
    made = {"is": type(microbatches.law if isinstance(microbatches, FromDistribution) else microbatches).__name__}
    return made | batch(microbatches.microbatch(0, PROBED))


PROBED = 16  # data in the microbatch that stands for data which are not in memory


def batch(found: Batch) -> dict[str, str]:
    """The fingerprint of every part of a batch."""
    parts = [("x1", found.x1), ("x0", found.x0), ("weight", found.weight), *leaves(found.cond, "cond")]
    return {name: fingerprint(part) for name, part in parts if part is not None}


def difference(old: Any, new: Any, name: str = "") -> list[str]:
    """Lines ``name: old -> new`` for every setting that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in difference(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]
