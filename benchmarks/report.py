"""The format of benchmark results: figures with machine, versions, commit, device, command, seeds and settings."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import beeline
from beeline.core.errors import BeelineError

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark, with its option ``--output``."""
    created = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    created.add_argument(
        "--output", type=Path, metavar="FILE", help="file of the result (default: in benchmarks/results)"
    )
    return created


def digits_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark of flows of MNIST that writes its page with ``--page``."""
    created = parser(name, description)
    created.add_argument("--mnist", type=Path, metavar="FILE", help="MNIST as an .npz file")
    created.add_argument("--models", type=Path, default=Path("models/fewstep"), metavar="DIR", help="trained flows")
    created.add_argument("--samples", type=int, default=1000, help="of every distance")
    created.add_argument("--device", default="cpu")
    created.add_argument("--page", action="store_true", help="write the page, measure nothing")
    return created


def run(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], None],
    page: Callable[[Path], None],
    results: Path,
) -> None:
    """Measure on one thread, or write the page of ``--output`` or ``results``; mistakes of the user end the program."""
    torch.set_num_threads(1)
    try:
        page(options.output or results) if options.page else measure(options)
    except BeelineError as error:
        sys.exit(f"error: {error}")


def command(words: Sequence[str]) -> str:
    """A command line in which files with absolute paths have their names alone."""
    return " ".join(Path(word).name if Path(word).is_absolute() else word for word in words)


def machine() -> dict[str, Any]:
    """The hardware and its load, on which times depend."""
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if sys.platform != "win32" else None,
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, torch, NumPy, Beeline, and of those of ``packages`` that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "beeline": beeline.__version__}
    for package in ("numpy", *packages):
        if installed(package):
            found[package] = importlib.metadata.version(package)
    return found


def installed(package: str) -> bool:
    """Whether a distribution package is installed."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def commit() -> str | None:
    """The commit of this checkout, with a plus if files differ from it."""
    here = Path(__file__).parent
    try:
        name, changes = (
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changes else "")


def named(benchmark: str, device: str) -> str:
    """The name of a result: figures of an accelerator have a file of their own."""
    kind = torch.device(device).type
    return benchmark if kind == torch.device("cpu").type else f"{benchmark}-{kind}"


def write(
    name: str,
    figures: Any,
    seeds: Sequence[int],
    path: Path | None = None,
    *,
    device: str = "cpu",
    packages: Sequence[str] = (),
    **settings: Any,
) -> Path:
    """Write one result atomically, to ``path`` or ``benchmarks/results/NAME.json``.

    ``packages``: packages of other projects that were measured, for the versions.  ``settings``: everything else that
    the figures depend on, as plain data.
    """
    target = path or RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name,
        "command": command([sys.executable, *sys.orig_argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": machine(),
        "device": device,
        "versions": versions(packages),
        "seeds": list(seeds),
        "settings": settings,
        "figures": figures,
    }
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{name}", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, allow_nan=False)
            file.write("\n")
        os.chmod(draft, 0o644)  # mkstemp creates a private file
        os.replace(draft, target)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return target


def read(path: Path) -> dict[str, Any]:
    """A result file; {} if it does not exist."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a result file for this process; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fill(page: Path, name: str, text: str) -> None:
    """Write a text into a page, between the marks of ``name``."""
    begin, end = f"<!-- begin of {name}; generated -->", f"<!-- end of {name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
