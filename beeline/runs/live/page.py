"""The HTML page of a running training: ``live.html`` in the directory of the run."""

from __future__ import annotations

import base64
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from beeline.core.files import write_text
from beeline.runs.live.charts import chart
from beeline.runs.live.state import State, duration
from beeline.training.callbacks import CallbackBase
from beeline.training.logs.run_log import read_log
from beeline.training.memory import resident, size

PAGE = "live.html"
SHARE = 0.02  # of the training time, which the page takes at most
OFTEN = 2.0  # seconds between two versions of the page


class LivePage(CallbackBase):
    """Writes ``live.html``: progress, loss curves, the latest previews, and memory.

    The page refreshes itself, also from a file.  A new version is written where the time spent on all versions stays
    below ``share`` of the time since the first step, and after the last step.  An error is one warning, and no further
    version is written.
    """

    name = "live"

    def __init__(
        self,
        folder: str | Path,
        device: torch.device,
        share: float = SHARE,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.folder, self.device, self.share, self.clock = Path(folder), device, share, clock
        self.state = State(0)
        self.spent = 0.0  # seconds
        self._cost = 0.0  # of the last version
        self._begin: float | None = None
        self._last = -math.inf
        self._failed = False

    def due(self, step: int, steps: int) -> bool:
        self.state.steps = steps
        return False

    def evaluate(self, raw: Any, ema: Any, step: int) -> dict[str, Any]:
        return {}

    def record(self, entry: Mapping[str, Any]) -> None:
        """Take in an entry of the log, and write a new version of the page if it is time."""
        begin = self.clock()
        if self._begin is None and "loss" in entry:
            self._begin = begin
            if int(entry["step"]) > 1:
                self._guarded(self._read_log)
        self.state.record(entry)
        if self._begin is None or self._failed or begin - self._last < OFTEN:
            return
        if self.spent + self._cost <= self.share * (begin - self._begin):
            self._last = begin
            self._guarded(lambda: self.write("running"))
            self._cost = self.clock() - begin
            self.spent += self._cost

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Write the last version, which does not refresh itself, when the block ends or fails."""
        try:
            yield
        except KeyboardInterrupt:
            self._close("interrupted")
            raise
        except BaseException:
            self._close("failed")
            raise
        self._close("finished")

    def write(self, status: str) -> None:
        """Write the page; raises OSError and whatever else fails."""
        state, running = self.state, status in ("running",)
        write_text(
            self.folder / PAGE,
            _environment()
            .get_template("live.html.j2")
            .render(
                title=self.folder.name,
                status=status,
                running=running,
                written=datetime.now().astimezone().isoformat(timespec="seconds"),
                seconds=time.time(),
                state=state,
                left=duration(state.remaining if running else 0),
                loss=chart(
                    {"training": state.curve.points, "held out": state.heldout},
                    "step",
                    "loss",
                    ["training", "held out"],
                ),
                by_time=_by_time(state.by_time),
                previews=[(kind, *_preview(self.folder / "samples" / file)) for kind, file in _latest(state)],
                device=_device_name(self.device),
                memory=size(_memory(self.device)),
                share=self.spent / max(self.clock() - (self._begin or 0.0), 1e-9),
                report=(self.folder / "report.html").is_file() or status in ("finished",),
            ),
        )

    def _close(self, status: str) -> None:
        if self._begin is not None and not self._failed:
            self._guarded(lambda: self.write(status))

    def _read_log(self) -> None:
        file = self.folder / "log.jsonl"
        entries = read_log(file) if file.is_file() else []
        self.state.earlier(entries[:-1])  # the last one has just been written

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._failed = True
            line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            warnings.warn(f"{self.folder / PAGE} is no longer written ({line}); training continues", stacklevel=3)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("beeline.runs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _latest(state: State) -> list[tuple[str, str]]:
    """The latest previews: those of the averaged weights before those of the raw ones."""
    return sorted(state.previews.items())


def _preview(file: Path) -> tuple[str, Markup]:
    """The kind of a preview and its content: an image as a data address, or HTML."""
    if file.suffix in (".html",):
        return "html", Markup(file.read_text(encoding="utf-8"))
    return "png", Markup(base64.b64encode(file.read_bytes()).decode())


def _by_time(found: Mapping[str, Any]) -> Markup:
    """A chart of the held-out loss by time with its baselines; empty before the first evaluation."""
    if not found:
        return Markup("")
    named = {"held out": found["by_bin"], "mean of the data": found["mean"], "memorised": found["posterior"]}
    n = len(found["by_bin"])
    curves = {k: [((i + 0.5) / n, y) for i, y in enumerate(v)] for k, v in named.items() if v is not None}
    return chart(curves, "time, from noise (0) to data (1)", "held-out loss", ["held out", "mean of the data"], 1.0)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _memory(device: torch.device) -> int:
    """Bytes that are allocated on the device now; on a CPU those of the process."""
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else resident()
