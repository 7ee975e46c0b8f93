"""The pictures of hints as conditions of a flow with controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import nearest, require
from beeline.core.ranges import Count, dataclass
from beeline.data.described.encoders import ConditionEncoderBase, read_picture

CONTROL = "control"  # the condition that holds them


@dataclass(frozen=True)
class HintPictures(ConditionEncoderBase):
    """Pictures of one size as hints [C,H,W] in [-1, 1], of one control or of several by name.

    c = 2 (level + 1/2) / 256 - 1 for pixels;  numbers in [-1, 1] as they are;  no picture is zeros
    For data of smaller sides, such as latents, the pixels of patches of ``factor`` x ``factor`` are channels.
    A value is a file, uint8 pixels [H,W] or [H,W,C], or numbers [C,H,W] or [N,C,H,W]; of several controls a mapping of
    names to these, of which some may be left out.

    >>> HintPictures(8, 8, {"edges": 1}).encode([np.zeros((8, 8), np.uint8)])[""].shape
    torch.Size([1, 1, 8, 8])
    """

    height: Count
    width: Count
    channels: Mapping[str, int]  # of the hints of all controls, by name
    factor: Count = 1  # sides of the pictures over those of the data
    reads_files: ClassVar[bool] = True

    @property
    def sizes(self) -> Mapping[str, Mapping[str, int]]:
        f = self.factor
        sides = {"height": self.height // f, "width": self.width // f}
        each = {name: {"channels": n * f * f, **sides} for name, n in self.channels.items()}
        return {"": next(iter(each.values()))} if len(each) == 1 else each

    def encode(self, values: Sequence[Any]) -> dict[str, Tensor]:
        rows = [self._named(value) for value in values]
        made = {
            name: F.pixel_unshuffle(torch.cat([self._one(name, row.get(name), channels) for row in rows]), self.factor)
            for name, channels in self.channels.items()
        }
        return {"": next(iter(made.values()))} if len(made) == 1 else made

    def _named(self, value: Any) -> Mapping[str, Any]:
        if value is None or isinstance(value, Mapping):
            for name in value or {}:
                require(name in self.channels, f"there is no control {name!r}; {nearest(str(name), self.channels)}")
            return value or {}
        require(
            len(self.channels) == 1,
            f"one hint was given for the controls {', '.join(self.channels)}; give them by name: "
            f"control={{{', '.join(f'{name}: FILE' for name in self.channels)}}}",
        )
        return dict.fromkeys(self.channels, value)

    def _one(self, name: str, value: Any, channels: int) -> Tensor:
        """A hint [N,C,H,W]."""
        if value is None:
            return torch.zeros(1, channels, self.height, self.width)
        if isinstance(value, str | Path):
            value = read_picture(
                value,
                f"was given as the hint of the control {name!r}; give the name of a picture, such as control=edges.png",
            )
        pixels = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
        if pixels.dtype == torch.uint8:
            grey = pixels if pixels.ndim == 3 else pixels[..., None]
            grey = (
                grey[..., :3].float().mean(2, keepdim=True).expand(-1, -1, channels)
                if channels != grey.shape[2]
                else grey
            )
            pixels = (grey.permute(2, 0, 1).float() + 0.5) / 128 - 1
        made = pixels.float() if pixels.ndim == 4 else pixels.float()[None]
        wanted = (channels, self.height, self.width)
        require(
            made.ndim == 4 and tuple(made.shape[1:]) == wanted and bool(made.isfinite().all()),
            f"the hint of the control {name!r} has the shape {tuple(made.shape[1:])}, and the data have {wanted}; a "
            "hint has the sides of the data and finite numbers: resize the picture",
        )
        require(
            bool((made.abs() <= 1).all()),
            f"the hint of the control {name!r} has numbers from {float(made.min()):.3g} to {float(made.max()):.3g}; "
            "they are between -1 and 1, or uint8 pixels: scale them",
        )
        return made
