"""Encoders of conditions without weights: numbers and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.ranges import Count, Positive, dataclass
from beeline.data.pictures.pixels import pixels_of, square


@plain_dataclass(frozen=True)
class InMemory:
    """Conditions in memory: a call gives those of some rows."""

    made: Mapping[str, Tensor]

    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: leaf[rows] for name, leaf in self.made.items()}


@plain_dataclass(frozen=True)
class AtOnce:
    """Conditions that are encoded when they are needed: a call gives those of some rows."""

    encode: Callable[[Sequence[Any]], dict[str, Tensor]]
    values: Sequence[Any]

    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        return self.encode([self.values[i] for i in rows.tolist()])


class ConditionEncoderBase:
    """Defaults of the ConditionEncoder protocol: the column of the condition's name, no lists, no weights, in memory.

    A subclass gives ``sizes`` and ``encode``; ``reads_files`` says whether a text is the name of a file.
    """

    column = ""
    reads_files: ClassVar[bool] = False

    @property
    def depth(self) -> int:
        return 0

    @property
    def sizes(self) -> Mapping[str, Mapping[str, int]]:
        raise NotImplementedError

    def encode(self, values: Sequence[Any]) -> dict[str, Tensor]:
        raise NotImplementedError

    def stored(self, values: Sequence[Any]) -> Callable[[Tensor], dict[str, Tensor]]:
        return InMemory(self.encode(values))

    def digest(self) -> str:
        return ""


@dataclass(frozen=True)
class Numbers(ConditionEncoderBase):
    """Numbers as a condition: a vector, or with ``length`` a sequence of up to so many vectors, such as boxes.

    c = numbers / scale;  a shorter sequence ends with zeros, which are padding
    A value is a list, a list of lists, or the same as JSON text.  Zeros alone are the null.

    >>> Numbers(2, length=3).encode([[[1, 2]], None])[""].shape
    torch.Size([2, 3, 2])
    """

    size: Count  # numbers of a vector
    length: Count | None = None  # most vectors of a sequence; None for one vector
    column: str = ""  # of the metadata; "" is that with the name of the condition
    scale: Positive = 1.0  # by which numbers are divided, such as the side of the pictures in pixels

    @property
    def depth(self) -> int:
        return 1 if self.length is None else 2

    @property
    def sizes(self) -> Mapping[str, Mapping[str, int]]:
        if self.length is None:
            return {"": {"size": self.size, "null": 0}}
        return {"": {"length": self.length, "size": self.size}}

    def encode(self, values: Sequence[Any]) -> dict[str, Tensor]:
        return {"": torch.stack([self._one(i, value) for i, value in enumerate(values)])}

    def _one(self, row: int, value: Any) -> Tensor:
        shape = (self.size,) if self.length is None else (self.length, self.size)
        if value is None or (isinstance(value, str) and not value.strip()):
            return torch.zeros(shape)
        try:
            numbers = np.asarray(json.loads(value) if isinstance(value, str) else value, dtype=np.float32)
        except (ValueError, TypeError):
            raise BeelineError(
                f"the condition of row {row} is {str(value)[:80]!r}; it is a list of {self.size} numbers"
                + ("" if self.length is None else f", or up to {self.length} lists of them")
                + ": correct it, or leave it empty for none"
            ) from None
        numbers = numbers.reshape(-1, self.size) if numbers.size == 0 else np.atleast_1d(numbers)
        numbers = numbers[None] if self.length is not None and numbers.ndim == 1 else numbers
        fits = numbers.shape == shape if self.length is None else numbers.shape[1:] == (self.size,)
        require(
            fits and len(numbers) <= shape[0] and np.isfinite(numbers).all(),
            f"the condition of row {row} has the shape {list(numbers.shape)}; it is "
            f"{list(shape)} finite numbers{'' if self.length is None else ', or fewer rows'}: correct it, or give "
            "another size or length",
        )
        made = torch.from_numpy(numbers) / self.scale
        return made if self.length is None else F.pad(made, (0, 0, 0, self.length - len(made)))


def read_picture(place: str | Path, use: str) -> Any:
    """The pixels uint8 [H,W,C] of a file; where there is none, ``use`` says what it was for and how to mend it."""
    require(Path(place).is_file(), f"there is no picture {place}, which {use}")
    return pixels_of(str(place), Path(place).read_bytes(), "white")


@dataclass(frozen=True)
class Pictures(ConditionEncoderBase):
    """Pictures as a condition, such as edges or a depth map: a sequence of the pixels of their patches.

    c_k = the numbers of patch k, pixels 2 (level + 1/2) / 256 - 1;  the central square, resized
    A value is a file, or uint8 pixels [H,W] or [H,W,C].  Nothing is learned before the network.

    >>> Pictures(side=8, patch=4).encode([np.zeros((8, 8), np.uint8)])[""].shape
    torch.Size([1, 4, 16])
    """

    side: Count = 32  # pixels; a multiple of patch
    patch: Count = 4  # side of a patch in pixels
    channels: Count = 1  # 1 for grey, 3 for colours
    column: str = ""  # of the metadata, with file names; "" is that with the name of the condition
    reads_files: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(
            self.side % self.patch == 0 and self.channels in (1, 3),
            f"Pictures got side={self.side}, patch={self.patch} and channels={self.channels}; a picture is whole "
            "patches with 1 or 3 channels: give a multiple of the patch",
        )

    @property
    def sizes(self) -> Mapping[str, Mapping[str, int]]:
        return {"": {"length": (self.side // self.patch) ** 2, "size": self.channels * self.patch**2}}

    def encode(self, values: Sequence[Any]) -> dict[str, Tensor]:
        spec = self.sizes[""]
        empty = torch.zeros(spec["length"], spec["size"])
        return {"": torch.stack([empty if value is None or not len(value) else self._one(value) for value in values])}

    def stored(self, values: Sequence[Any]) -> Callable[[Tensor], dict[str, Tensor]]:
        return AtOnce(self.encode, values)

    def _one(self, value: Any) -> Tensor:
        if isinstance(value, str | Path):
            value = read_picture(
                value, "is a condition; check the name, which is relative to the folder of the data in its metadata"
            )
        pixels = np.asarray(value, np.uint8) if isinstance(value, list) else np.asarray(value)
        require(
            pixels.dtype == np.uint8 and pixels.ndim in (2, 3),
            f"a picture of a condition has the shape {pixels.shape} and {pixels.dtype}; give a file, or uint8 [H,W,C]",
        )
        tile = torch.from_numpy(square(pixels if pixels.ndim == 3 else pixels[..., None], self.side).copy()).float()
        if tile.shape[2] != self.channels:
            tile = tile[..., :3].mean(2, keepdim=True).expand(-1, -1, self.channels)
        x = (tile.permute(2, 0, 1) + 0.5) / 128 - 1
        return F.unfold(x[None], self.patch, stride=self.patch)[0].T.contiguous()
