"""Defaults of callbacks, and previews: samples written to files during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.files import write_bytes
from beeline.core.modes import eval_mode


class CallbackBase:
    """Defaults of the Callback protocol: called every ``every`` steps and after the last one, without a score."""

    every: int = 500

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps

    @property
    def scores(self) -> bool:
        return False

    def score(self, found: Mapping[str, Any]) -> float:
        raise NotImplementedError(f"{type(self).__name__} gives no score")

    def place(self, device: torch.device, seen: dict[int, Any]) -> Any:
        return self


class Previews(CallbackBase):
    """Pictures from fixed noise, raw and averaged weights side by side in ``folder``.

    ``draw(network)`` gives the bytes of a picture (or a page); it has to use the same noise at every call.
    """

    name = "previews"

    def __init__(
        self,
        draw: Callable[[nn.Module], bytes],
        folder: str | Path,
        every: int = 500,
        suffix: str = "png",
        writes: bool = True,
    ):
        require(every >= 1, f"previews every {every} steps were asked for; give a whole number from 1")
        self.draw, self.folder, self.every, self.suffix = draw, Path(folder), every, suffix
        self.writes = writes  # of several processes all draw and one writes

    def evaluate(self, raw: nn.Module, ema: nn.Module | None, step: int) -> dict[str, Any]:
        """Write the pictures of this step; their names."""
        written = {}
        for kind, network in (("raw", raw), ("ema", ema)):
            if network is not None:
                with eval_mode(network):
                    content = self.draw(network)
                path = self.folder / f"step-{step:08d}-{kind}.{self.suffix}"
                if self.writes:
                    write_bytes(path, content)
                written[kind] = path.name
        return written
