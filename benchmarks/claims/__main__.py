"""python -m benchmarks.claims [ID ...] [--seeds N] [--again] [--only-changed] [--output FILE] [--page]"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from beeline import BeelineError
from beeline.core.errors import require
from benchmarks import claims
from benchmarks.claims import page, record


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=claims.__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="method ids; all of them when none is given")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"seeds a claim, {claims.FEWEST} or more; by default "
                        f"what its file says, or {claims.SEEDS}")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="repeat measurements by the same code")
    parser.add_argument("--only-changed", action="store_true", help="skip ids whose claim file did not change, "
                        "also where the package did")  # fmt: skip
    parser.add_argument(
        "--output", metavar="FILE", type=Path, default=record.FILE, help="result file; entries are added"
    )
    parser.add_argument("--merge", nargs="+", metavar="FILE", type=Path, help="measure nothing, add the entries of "
                        "other result files that the present claims gave")  # fmt: skip
    parser.add_argument("--page", action="store_true", help="measure nothing, write docs/claims.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if chosen.page:
            return page.write()
        if chosen.merge:
            return print(*record.merge(chosen.merge, chosen.output), sep="\n")
        for method in chosen.ids:
            claims.claim(method)  # refuses a wrong id before any work is done
        require(chosen.seeds is None or chosen.seeds >= claims.FEWEST, f"got --seeds {chosen.seeds}; a verdict needs "
                f"{claims.FEWEST} seeds or more. Give --seeds {claims.FEWEST}.")  # fmt: skip
        with on_cpu():
            failed = measure(chosen)
    except BeelineError as error:
        sys.exit(f"error: {error}")
    if failed:
        sys.exit(f"error: {len(failed)} of the claims raised an exception: {', '.join(failed)}; see above")


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Hide the GPUs: the data of claims are on the CPU, and trainings would move their networks to a GPU."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def measure(chosen: argparse.Namespace) -> list[str]:
    """Measure and write one id after the other; the ids that raised an exception."""
    known, console, failed = record.read(chosen.output), Console(), []
    wanted = chosen.ids or claims.ids()
    todo = [m for m in wanted if chosen.again or not record.current(m, known.get(m), chosen.seeds,
            claim_only=chosen.only_changed)]  # fmt: skip
    timed = [known[m]["seconds"] for m in todo if known.get(m, {}).get("seconds")]
    guess = (
        f"about {sum(timed) / 60:.0f} minutes for the {len(timed)} that were timed before" if timed else "not timed yet"
    )
    console.print(f"{len(todo)} of {len(wanted)} claims to measure ({guess})")
    for method in todo:
        try:
            entry = claims.run(method, chosen.seeds, lambda seed, m=method: print(f"{m}: seed {seed}", file=sys.stderr))
        except Exception as error:  # continue with the other claims
            traceback.print_exc()
            module = claims.claim(method)
            entry = {"method": module.METHOD, "claim": module.CLAIM, "measured": "", "seeds": [], "findings": [],
                     "error": f"{type(error).__name__}: {error}"}  # fmt: skip
            failed.append(method)
        record.add(method, entry, chosen.output)
        console.print(table(method, entry))
    return failed


def table(method: str, entry: dict[str, Any]) -> Table:
    """The findings of one id for the terminal."""
    made = Table("compares", "better", "baseline", "figure", "control", "verdict",
                 title=f"{method} {entry['method']}: {entry.get('seconds', 0):.0f} s")  # fmt: skip
    for row in entry["findings"]:
        cells = [f"{c['mean']:.4g} ± {c['deviation']:.2g}" if c["mean"] is not None else "not finite"
                 for c in (row["baseline"], row["figure"], row["control"])]  # fmt: skip
        made.add_row(row["compares"], row["better"], *cells, row["verdict"])
    if entry.get("seconds", 0) > claims.LONGEST and not entry["slow"]:
        made.caption = f"more than {claims.LONGEST:.0f} s, and the file gives no reason (SLOW)"
    return made


if __name__ == "__main__":
    main()
