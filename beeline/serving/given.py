"""Data that a request holds: numbers, rows, texts, and pictures in base64."""

from __future__ import annotations

import base64
import binascii
import io
from functools import singledispatch
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, require
from beeline.data.images import Image
from beeline.data.labels import Array
from beeline.data.latents.modality import LatentImage
from beeline.data.pictures.pixels import pixels_of
from beeline.data.sequences import Sequences
from beeline.data.tables.table import Table

PIXELS = 2**24  # of one picture


@singledispatch
def given(modality: Any, data: Any) -> Any:
    """Data in the form of a modality: here an array of numbers, NaN where one is null."""
    try:
        return np.asarray(data, dtype=np.float64)
    except (TypeError, ValueError):
        raise BeelineError(
            f"the data begin with {str(data)[:60]}, which is no array; give nested lists of numbers, with null where "
            "one is missing"
        ) from None


@given.register(Image)
@given.register(LatentImage)
def _of_pictures(modality: Any, data: Any) -> Any:
    many = [data] if isinstance(data, str) else data
    if isinstance(many, list) and many and all(isinstance(one, str) for one in many):
        return np.stack(equal(picture(one, f"picture {k}") for k, one in enumerate(many)))
    try:
        values = np.asarray(data)
    except ValueError:
        values = np.empty(0)
    require(
        values.dtype.kind in "iu"
        and values.ndim in (3, 4)
        and values.size > 0
        and 0 <= values.min() <= values.max() < 256,
        "the data are no pictures; give one in base64 (PNG or JPEG), a list of these, or integers from 0 to 255 of the "
        "shape [N,H,W] or [N,H,W,C]",
    )
    return values.astype(np.uint8)


@given.register(Table)
def _of_rows(modality: Table, data: Any) -> Any:
    import pandas

    rows = [data] if isinstance(data, dict) else data
    require(
        isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows),
        f"the data begin with {str(data)[:60]}, which is no row; give one object for every row: {{COLUMN: VALUE, ...}}",
    )
    return pandas.DataFrame(rows)


@given.register(Sequences)
def _of_texts(modality: Sequences, data: Any) -> Any:
    texts = [data] if isinstance(data, str) else data
    require(
        isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts),
        f"the data begin with {str(data)[:60]}, which is no text; give a text, or a list of texts",
    )
    return texts


@singledispatch
def opened(modality: Any, condition: Any) -> Any:
    """The condition of a request, in which pictures in base64 are pixels: no text is taken for the name of a file."""
    return condition


@opened.register(LatentImage)
def _of_latent(modality: LatentImage, condition: Any) -> Any:
    return opened(modality.image, condition)


@opened.register(Image)
def _of_image(modality: Image, condition: Any) -> Any:
    if modality.described is None:
        return condition
    encoders = modality.described.encoders
    known, rest = modality.described.parted(condition)
    if not known:
        return condition
    made = {name: _pixels(name, value) if encoders[name].reads_files else value for name, value in known.items()}
    return {**(rest or {}), **made}


def _pixels(name: str, value: Any) -> Any:
    """Pictures in base64 of a condition, also by name or in a list, as pixels; numbers stay as they are."""
    if isinstance(value, str):
        return picture(value, f"the condition {name!r}")
    if isinstance(value, dict):
        return {key: _pixels(key, one) for key, one in value.items()}
    if isinstance(value, list) and all(isinstance(one, str | dict) or one is None for one in value):
        return [_pixels(name, one) for one in value]
    return value


def picture(text: str, name: str) -> Array:
    """A picture in base64, also as a data URL, as pixels uint8 [H,W,C]; ValueError for others."""
    return decoded(raw_bytes(text, name), name)


def raw_bytes(text: str, name: str) -> bytes:
    """The bytes of a text in base64."""
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        raise BeelineError(f"{name} is no text in base64; give the bytes of a PNG or JPEG file in base64") from None


def decoded(content: bytes, name: str) -> Array:
    """The bytes of a picture as pixels uint8 [H,W,C]; its size is read before its pixels."""
    check_size(content, name)
    return pixels_of(name, content)


def marked(content: bytes, name: str) -> Array:
    """The positions [H,W] of a mask that may change: transparent ones where the picture has some, else white ones."""
    from PIL import Image as Picture

    check_size(content, name)
    pixels = pixels_of(name, content)
    with Picture.open(io.BytesIO(content)) as mask:
        clear = np.asarray(mask.convert("RGBA"))[..., 3] < 128
    return clear if clear.any() else pixels.max(-1) >= 128


def check_size(content: bytes, name: str) -> None:
    """Refuse pictures of too many pixels, and what is no picture."""
    from PIL import Image as Picture

    try:
        with Picture.open(io.BytesIO(content)) as found:
            wide, high = found.size
    except Exception as error:  # PIL's parsers raise whatever they meet
        raise BeelineError(
            f"{name} cannot be read as an image ({type(error).__name__}); give a PNG or JPEG file"
        ) from None
    require(
        wide * high <= PIXELS,
        f"{name} has {wide} x {high} pixels; a picture has at most {PIXELS:,}: make it smaller",
    )


def equal(pictures: Any) -> list[Array]:
    """Pictures of one size and number of channels; ValueError for others."""
    found = list(pictures)
    sizes = sorted({one.shape for one in found})
    require(
        len(sizes) == 1, f"the pictures have the sizes {sizes}; give pictures of one size, and all grey or in colour"
    )
    return found
