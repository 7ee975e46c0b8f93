"""python -m benchmarks.claims [ID ...] [--json FILE]"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from beeline import BeelineError
from beeline.files import write_text
from benchmarks import claims


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=claims.__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="method ids; all of them when none is given")
    parser.add_argument("--json", metavar="FILE", help="write the findings there as a JSON list")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    table = Table("id", "method", "compares", "baseline", "figure", "better", "holds", "s")
    try:
        for method in chosen.ids or claims.ids():
            for row in claims.run(method):
                rows.append(row)
                table.add_row(
                    row["id"], row["method"], row["compares"], f"{row['baseline']:.4g}", f"{row['figure']:.4g}",
                    row["better"], "yes" if row["holds"] else "NO", f"{row['seconds']:.1f}",
                )  # fmt: skip
    except BeelineError as error:
        sys.exit(f"error: {error}")
    Console().print(table)
    if chosen.json:
        write_text(Path(chosen.json), json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
