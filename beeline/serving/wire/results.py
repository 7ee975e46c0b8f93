"""Samples in the user's form as bytes and back, without loss and without pickles: a line of JSON, then safetensors."""

from __future__ import annotations

import io
import json
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from beeline.core.errors import require
from beeline.data.images import Images
from beeline.data.points import PointSet
from beeline.data.signals.arrays import ArraySet

SETS: dict[str, tuple[type, tuple[str, ...], tuple[str, ...]]] = {
    "images": (Images, ("pixels", "labels"), ("names",)),
    "arrays": (ArraySet, ("values", "labels"), ("names",)),
    "points": (PointSet, ("values", "labels"), ("names", "columns")),
}
"""Name of a form -> its type, the fields that are arrays, and those that are texts."""


def dumped(raw: Any, facts: Any = None) -> bytes:
    """Samples, and facts beside them as plain data."""
    form, tensors, texts = parts(raw)
    return json.dumps({"form": form, "texts": texts, "facts": facts}).encode() + b"\n" + save(tensors)


def loaded(content: bytes) -> tuple[Any, Any]:
    """The samples and the facts."""
    head, _, rest = content.partition(b"\n")
    said, tensors = json.loads(head), load(rest)
    form, texts = said["form"], said["texts"]
    if form in SETS:
        kind, *_ = SETS[form]
        raw = kind(**{name: tensor.numpy() for name, tensor in tensors.items()}, **texts)
    else:
        raw = FORMS[form](tensors.get("x"), texts)
    return raw, said["facts"]


@singledispatch
def parts(raw: Any) -> tuple[str, dict[str, Tensor], Any]:
    """The name of a form, its tensors, and its texts."""
    require(
        type(raw).__name__ == "DataFrame",
        f"samples of the type {type(raw).__name__} cannot be sent through a queue; serve this model without --queue",
    )
    file = io.BytesIO()
    raw.to_parquet(file)
    return "table", {"x": torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)}, None


@parts.register
def _(raw: None) -> tuple[str, dict[str, Tensor], Any]:
    return "none", {}, None


@parts.register
def _(raw: Tensor) -> tuple[str, dict[str, Tensor], Any]:
    return "tensor", {"x": raw.cpu().contiguous()}, None


@parts.register(np.ndarray)
def _(raw: Any) -> tuple[str, dict[str, Tensor], Any]:
    return "array", {"x": torch.from_numpy(np.ascontiguousarray(raw))}, None


@parts.register
def _(raw: list) -> tuple[str, dict[str, Tensor], Any]:  # type: ignore[type-arg]
    require(
        all(isinstance(one, str) for one in raw), "the samples are a list, but not of texts; serve it without --queue"
    )
    return "texts", {}, raw


@parts.register(Images)
@parts.register(ArraySet)
@parts.register(PointSet)
def _(raw: Any) -> tuple[str, dict[str, Tensor], Any]:
    form, (_, arrays, texts) = next((name, found) for name, found in SETS.items() if isinstance(raw, found[0]))
    known = vars(raw)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(known[name])) for name in arrays if known[name] is not None}
    return form, tensors, {name: list(known[name]) for name in texts}


def _table(x: Any, texts: Any) -> Any:
    import pandas

    return pandas.read_parquet(io.BytesIO(x.numpy().tobytes()))


FORMS: dict[str, Any] = {
    "none": lambda x, texts: None,
    "tensor": lambda x, texts: x,
    "array": lambda x, texts: x.numpy(),
    "texts": lambda x, texts: texts,
    "table": _table,
}
"""Name of a form -> its value from a tensor and texts."""
