"""The result file of the claims: one entry per id, written as soon as it is measured."""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.claims import file_of

FOLDER = Path(__file__).parent
PACKAGE = FOLDER.parent.parent / "beeline"
FILE = report.RESULTS / "claims.json"


def read(path: Path = FILE) -> dict[str, Any]:
    """The entries of the file by id; {} if there is no file."""
    if not path.exists():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return figures


def add(method: str, entry: dict[str, Any], path: Path = FILE) -> None:
    """Write the entry of ``method``; all other entries are unchanged."""
    stamped = {**entry, **code(method), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    stamped |= {"commit": report.commit(), "machine": report.machine(), "versions": report.versions()}
    figures = {**read(path), method: stamped}
    seeds = sorted({seed for known in figures.values() for seed in known["seeds"]})
    report.write("claims", dict(sorted(figures.items())), seeds, path)


def merge(others: Sequence[Path], path: Path = FILE) -> list[str]:
    """Add the entries of other files that are newer and of the present claim files; what was done with each."""
    known, said = read(path), []
    for other in others:
        for method, entry in read(other).items():
            if entry.get("date", "") <= known.get(method, {}).get("date", ""):
                said.append(f"{method}: not newer")
            elif not current(method, entry, None, claim_only=True):
                said.append(f"{method}: not added, its file changed after the measurement, or it failed")
            else:
                known[method] = entry
                said.append(f"{method}: added")
    seeds = sorted({seed for entry in known.values() for seed in entry["seeds"]})
    report.write("claims", dict(sorted(known.items())), seeds, path)
    return said


def code(method: str) -> dict[str, str]:
    """Hashes of the present code of the claim (its file and those it imports) and of the package."""
    return {"claim_code": _digest(_files(file_of(method))), "package_code": _digest(sorted(PACKAGE.rglob("*.py")))}


def current(method: str, entry: dict[str, Any] | None, seeds: int | None, *, claim_only: bool = False) -> bool:
    """Whether an entry was measured without error by the present code, with the requested number of seeds."""
    if entry is None or "error" in entry or (seeds is not None and len(entry["seeds"]) != seeds):
        return False
    now = code(method)
    return all(entry[key] == now[key] for key in (["claim_code"] if claim_only else now))


def _files(name: str) -> list[Path]:
    """A claim file and all files of this folder that it imports, directly or indirectly."""
    found: dict[str, Path] = {}
    open_ = [name, "__init__", "verdict"]
    while open_:
        module = open_.pop()
        path = FOLDER / f"{module}.py"
        if module in found or not path.exists():
            continue
        found[module] = path
        if module in ("__init__", "verdict"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks.claims."):
                open_.append((node.module or "").rsplit(".", 1)[1])
    return [found[key] for key in sorted(found)]


def _digest(files: list[Path]) -> str:
    made = hashlib.sha256()
    for path in files:
        made.update(path.relative_to(PACKAGE.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return made.hexdigest()[:16]
