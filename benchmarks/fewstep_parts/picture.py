"""The picture of the few-step benchmark: samples of all students from the same noise and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from beeline.core.errors import require

SIDE, LABEL = 28, 250  # pixels of an image, and of the names
Rows = Sequence[tuple[str, np.ndarray]]


def write(names: Mapping[str, Path], path: Path) -> None:
    """A picture with a row for every name, from arrays [N,1,H,W] in [-1, 1]."""
    rows = [(name, np.load(file)) for name, file in names.items() if file.exists()]
    require(
        rows, f"none of the files of samples exists, such as {next(iter(names.values()), 'NAME-1.npy')}; measure mnist"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn(rows).save(path, optimize=True)


def drawn(rows: Rows) -> Image.Image:
    count = max(len(made) for _, made in rows)
    sheet = Image.new("L", (LABEL + count * (SIDE + 2), len(rows) * (SIDE + 2)), 255)
    pen = ImageDraw.Draw(sheet)
    for i, (name, made) in enumerate(rows):
        pen.text((4, i * (SIDE + 2) + 8), name, fill=0)
        pixels = ((torch.as_tensor(made).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        for j, one in enumerate(pixels[:, 0]):
            sheet.paste(Image.fromarray(one.numpy()), (LABEL + j * (SIDE + 2), i * (SIDE + 2)))
    return sheet
