"""Decoding of one image file to an array of pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, require
from beeline.data.labels import Array

DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # integer modes of PIL with more than 8 bits per pixel


def pixels_of(where: str, content: Any, background: str = "white") -> Array:
    """An encoded image as uint8 [H,W,1] (grayscale) or [H,W,3] (RGB).

    EXIF orientation is applied, transparent pixels are blended on ``background``, and 16-bit pixels are scaled to 8
    bits.  ValueError names the image by ``where`` if it is damaged or has several frames.
    """
    from PIL import Image, ImageColor, ImageOps, ImageSequence

    require(
        isinstance(content, bytes) and content,
        f"{where}: got {type(content).__name__} in place of the bytes of an image; remove the row",
    )
    try:
        with Image.open(io.BytesIO(content)) as opened:
            frames = sum(1 for _ in ImageSequence.Iterator(opened))
            opened.seek(0)
            picture = opened if frames > 1 else ImageOps.exif_transpose(opened)
            picture.load()
    # PIL's decoders raise whatever their parsers meet in damaged bytes
    except Exception as error:
        raise BeelineError(
            f"{where} cannot be read as an image ({type(error).__name__}), so it is damaged or of another kind; remove "
            "or replace it"
        ) from error
    require(
        frames == 1,
        f"{where} is an animation of {frames} frames, where one image is needed; save its frames as images",
    )
    if picture.mode in DEEP:
        return _to_8_bits(where, np.asarray(picture))[..., None]
    require(
        picture.mode != "F",
        f"{where} has floating-point pixels (mode F) of unknown range; scale it to 8 bits and save it again",
    )
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(canvas, picture.convert("RGBA")).convert("RGB")
        grey = grey and len(set(ImageColor.getrgb(background)[:3])) == 1
    made = np.asarray(picture.convert("L" if grey else "RGB"))
    return made if made.ndim == 3 else made[..., None]


def _to_8_bits(where: str, deep: Array) -> Array:
    low, high = int(deep.min()), int(deep.max())
    require(
        0 <= low and high <= 65535,
        f"{where} has values from {low} to {high}, beyond 16 bits; scale it to 8 or 16 bits and save it again",
    )
    return np.rint(deep.astype(np.float64) * (255 / 65535)).astype(np.uint8)


def square(tile: Array, side: int) -> Array:
    """The central square crop of an image [H,W] or [H,W,C], resized to ``side`` pixels."""
    return cropped(tile, side, side)


def cropped(tile: Array, height: int, width: int) -> Array:
    """The largest central window of an aspect ratio of an image [H,W] or [H,W,C], resized to ``height`` x ``width``."""
    from PIL import Image

    rows, columns = tile.shape[:2]
    tall, wide = min(rows, round(columns * height / width)), min(columns, round(rows * width / height))
    tall, wide = max(1, tall), max(1, wide)
    top, left = (rows - tall) // 2, (columns - wide) // 2
    cut = np.ascontiguousarray(tile[top : top + tall, left : left + wide])
    if (tall, wide) == (height, width):
        return cut
    size, how = (width, height), Image.Resampling.LANCZOS
    if tile.ndim == 3 and tile.shape[2] == 3:
        return np.asarray(Image.fromarray(cut).resize(size, how))
    flat = cut.reshape(tall, wide, -1)
    planes = [Image.fromarray(flat[..., c]).resize(size, how) for c in range(flat.shape[2])]
    made = np.stack([np.asarray(plane) for plane in planes], -1)
    return made if cut.ndim == 3 else made[..., 0]
