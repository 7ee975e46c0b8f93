"""What every benchmark result says beside its figures, and how it is written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
import torch

import beeline

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The machine and the versions: what a figure in seconds depends on."""
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "beeline": beeline.__version__,
        "commit": _commit(),
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def write(name: str, figures: Any, seeds: list[int], path: Path | None = None, **settings: Any) -> Path:
    """Write one result whole or not at all, to ``benchmarks/results/NAME.json`` or to ``path``."""
    target = path or RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name,
        "command": " ".join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "seeds": seeds,
        "settings": settings,
        "figures": figures,
    }
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{name}", suffix=".json")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=2, allow_nan=False)
            file.write("\n")
        os.chmod(draft, 0o644)  # mkstemp makes it private
        os.replace(draft, target)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return target


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _commit() -> str | None:
    """The commit of this checkout, with a plus where files differ from it."""
    here = Path(__file__).parent
    try:
        name, changes = (
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changes else "")
