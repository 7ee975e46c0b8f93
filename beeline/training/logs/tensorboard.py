"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beeline.core.errors import extra
from beeline.core.protocols.training import TrackedRun
from beeline.core.ranges import Count, dataclass


@dataclass(frozen=True)
class TensorBoard:
    """TensorBoard: event files in ``tensorboard/`` of the run, shown by ``tensorboard --logdir runs``.

    scalars, previews as images, settings, messages and final scores
    A resumed run hides the entries of the steps that it repeats.

    >>> TensorBoard(every=1).every
    1
    """

    every: Count = 10  # steps between two entries

    def check(self) -> None:
        extra("tensorboard", "trackers")

    def open(self, run: TrackedRun) -> TensorBoardRun:
        module = extra("torch.utils.tensorboard", "trackers")
        purge = run.step if run.step > 1 else None
        writer = module.SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)
        for name, value in run.settings.items():
            writer.add_text(f"settings/{name}", str(value), 0)
        return TensorBoardRun(writer)


class TensorBoardRun:
    """An open event file."""

    identity = None  # all event files of a folder are one run

    def __init__(self, writer: Any):
        self._writer = writer

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def preview(self, name: str, file: Path, step: int) -> None:
        """An image; TensorBoard shows no pages."""
        if file.suffix in (".png",):
            import numpy as np
            from PIL import Image

            with Image.open(file) as picture:
                self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
            self._writer.flush()

    def text(self, text: str, step: int) -> None:
        self._writer.add_text("messages", text, step)
        self._writer.flush()

    def scores(self, values: Mapping[str, float]) -> None:
        self.scalars(values, 0)

    def close(self) -> None:
        self._writer.close()
