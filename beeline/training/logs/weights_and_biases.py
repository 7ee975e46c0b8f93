"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beeline.core.errors import BeelineError, extra
from beeline.core.protocols.training import TrackedRun
from beeline.core.ranges import Count, dataclass

WITHOUT_LOGIN = ("offline", "disabled", "dryrun")  # values of WANDB_MODE


@dataclass(frozen=True)
class WandB:
    """Weights & Biases.

    scalars, previews as images or pages, settings, messages and final scores
    Without ``project`` or ``entity``, the variables WANDB_PROJECT and WANDB_ENTITY or the defaults of the account are
    used.  With WANDB_MODE=offline files are written to ``wandb/`` of the run, and ``wandb sync`` sends them.
    A resumed run continues the same run of the service.

    >>> WandB(project="digits").every
    10
    """

    project: str | None = None
    entity: str | None = None  # user or team
    every: Count = 10  # steps between two entries

    def check(self) -> None:
        wandb = extra("wandb", "trackers")
        if os.environ.get("WANDB_MODE", "") in WITHOUT_LOGIN:
            return
        try:
            known = bool(wandb.login(prompt=False))
        except Exception:  # a key that is refused, or no connection
            known = False
        if not known:
            raise BeelineError(
                "Weights & Biases is not logged in on this machine, so the run cannot be sent; run 'wandb login' or "
                "set WANDB_API_KEY, or set WANDB_MODE=offline and send the files later by 'wandb sync'"
            )

    def open(self, run: TrackedRun) -> WandBRun:
        wandb = extra("wandb", "trackers")
        opened = wandb.init(
            project=self.project or os.environ.get("WANDB_PROJECT") or "beeline",
            entity=self.entity,
            name=run.name,
            config=dict(run.settings),
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            id=run.identity,
            resume=None if run.identity is None else "allow",
            settings=wandb.Settings(silent=True),
        )
        return WandBRun(wandb, opened)


class WandBRun:
    """An open run of the service."""

    def __init__(self, wandb: Any, run: Any):
        self._wandb, self._run = wandb, run
        run.define_metric("*", step_metric="step")  # a resumed run may repeat steps

    @property
    def identity(self) -> str | None:
        return str(self._run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def preview(self, name: str, file: Path, step: int) -> None:
        images = file.suffix in (".png",)
        shown = self._wandb.Image(str(file)) if images else self._wandb.Html(file.read_text(encoding="utf-8"))
        self._run.log({name: shown, "step": step})

    def text(self, text: str, step: int) -> None:
        self._run.summary["message"] = f"step {step}: {text}"

    def scores(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self) -> None:
        self._run.finish()
