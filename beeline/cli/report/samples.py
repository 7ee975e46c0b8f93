"""The samples that a run has written, for pages."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from markupsafe import Markup


def picture_of(run: Path) -> dict[str, Any] | None:
    """The latest samples of a run as values of the macro ``sample``; None if there are none.

    Previews of the training are preferred: they start from the same noise in all runs.
    """
    folder = run / "samples"
    kinds = ("step-*-ema.*", "step-*-raw.*", "final.*")
    files = next((found for kind in kinds if (found := sorted(folder.glob(kind)))), [])
    if not files:
        return None
    file = files[-1]
    if file.suffix in (".html",):
        return {"svg": "", "html": Markup(file.read_text(encoding="utf-8"))}
    png = base64.b64encode(file.read_bytes()).decode()
    return {"svg": "", "html": "", "about": f"samples of {run.name}", "png": png}
