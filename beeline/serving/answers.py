"""Samples as JSON, or as a file of the modality, by what a client accepts."""

from __future__ import annotations

import io
import tempfile
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from beeline.core.errors import require
from beeline.data.images import Images

JSON = "application/json"
ENDINGS = {
    "image/png": ".png",
    "text/csv": ".csv",
    "text/plain": ".txt",
    "application/x-npy": ".npy",
    "application/x-npz": ".npz",
    "audio/wav": ".wav",
}
"""MIME type -> the ending of the file that a modality writes."""


def accepted(accept: str, formats: tuple[str, ...]) -> str:
    """The first MIME type of an Accept header that can be given; JSON for anything.

    Raises ValueError where there is none.
    """
    possible = [JSON, *(kind for kind, ending in ENDINGS.items() if ending in formats)]
    for part in accept.split(","):
        kind = part.partition(";")[0].strip().lower()
        if kind in possible:
            return kind
        if kind in ("", "*/*", "application/*"):
            return JSON
    require(False, f"Accept is {accept!r}, and this model gives none of these; accept one of {', '.join(possible)}")
    raise AssertionError


PNG = "image/png"


def png(pixels: Any) -> bytes:
    """One picture uint8 [H,W,C] as PNG, pixel for pixel."""
    from PIL import Image as Picture

    file = io.BytesIO()
    Picture.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def file_of(modality: Any, raw: Any, kind: str) -> bytes:
    """Samples as the content of a file; one picture as it is, several as a grid."""
    if kind == PNG and isinstance(raw, Images) and len(raw.pixels) == 1:
        return png(raw.pixels[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"samples{ENDINGS[kind]}"
        modality.save(raw, path)
        written = sorted(Path(folder).rglob("*"))
        return (path if path.is_file() else next(p for p in written if p.is_file())).read_bytes()


@singledispatch
def plain(raw: Any) -> Any:
    """Samples as lists, numbers and text; register a function for a type of one's own by ``plain.register``."""
    pixels, values = vars(raw).get("pixels"), vars(raw).get("values")
    array = pixels if pixels is not None else values
    require(
        array is not None,
        f"samples of the type {type(raw).__name__} have no form in JSON; accept one of the files that the model writes",
    )
    return np.asarray(array).tolist()


@plain.register(Tensor)
def _(raw: Tensor) -> Any:
    return raw.tolist()


@plain.register(np.ndarray)
def _(raw: Any) -> Any:
    return raw.tolist()


@plain.register(list)
@plain.register(tuple)
def _(raw: Any) -> Any:
    return list(raw)


def records(frame: Any) -> Any:
    """The rows of a data frame; empty cells are null."""
    import json

    return json.loads(frame.to_json(orient="records", date_format="iso"))


def as_json(raw: Any) -> Any:
    """Samples as JSON, a data frame as one object for every row."""
    return records(raw) if type(raw).__name__ == "DataFrame" else plain(raw)
