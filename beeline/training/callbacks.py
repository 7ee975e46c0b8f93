"""Base class of callbacks, and previews: samples written to files during training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.files import write_bytes
from beeline.core.modes import eval_mode


class CallbackBase:
    """Defaults of the Callback protocol: called every ``every`` steps and after the last step, without a score."""

    every: int = 500

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps

    @property
    def scores(self) -> bool:
        return False

    def score(self, found: Mapping[str, Any]) -> float:
        raise NotImplementedError(f"{type(self).__name__} has no score; override ``scores`` and ``score`` together")

    def watch(self, networks: Mapping[str, nn.Module]) -> None:
        return None

    def place(self, device: torch.device, seen: dict[int, Any]) -> Any:
        return self

    def record(self, entry: Mapping[str, Any]) -> None:
        return None


class Previews(CallbackBase):
    """Writes samples of the raw and of the averaged network to ``folder``.

    ``render(network)`` returns the bytes of an image or an HTML page; it has to use the same noise in every call.
    With ``limited`` previews but the last are left out where they took a tenth of the time so far and ten seconds;
    several processes have to agree on them, and are not limited.
    """

    name = "previews"

    def __init__(
        self,
        render: Callable[[nn.Module], bytes],
        folder: str | Path,
        every: int = 500,
        suffix: str = "png",
        writes: bool = True,
        limited: bool = False,
    ):
        require(every >= 1, f"Previews got every={every}; it is a number of steps: give a whole number of 1 or more")
        self.render, self.folder, self.every, self.suffix = render, Path(folder), every, suffix
        self.limited, self.begin, self.spent = limited, time.perf_counter(), 0.0
        self.writes = writes  # with several processes all render, and one writes

    def due(self, step: int, steps: int) -> bool:
        costly = self.limited and self.spent > max(10.0, 0.1 * (time.perf_counter() - self.begin))
        return super().due(step, steps) and (not costly or step == steps)

    def evaluate(self, raw: nn.Module, ema: nn.Module | None, step: int) -> dict[str, Any]:
        """Write the previews of this step; the names of the files."""
        begin, written = time.perf_counter(), {}
        for kind, network in (("raw", raw), ("ema", ema)):
            if network is not None:
                with eval_mode(network):
                    content = self.render(network)
                path = self.folder / f"step-{step:08d}-{kind}.{self.suffix}"
                if self.writes:
                    write_bytes(path, content)
                written[kind] = path.name
        self.spent += time.perf_counter() - begin
        return written
