"""Generates docs/claims.md from the result file of the claims."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import claims
from benchmarks.claims import record
from benchmarks.claims.verdict import HOLDS, INVALID, VERDICTS

PAGE = Path(__file__).parent.parent.parent / "docs" / "claims.md"
HEAD = """# Measured claims

{count} methods, {findings} findings: {verdicts}.

Every finding is measured with several seeds on a small exact or real problem. The figure is that of the method, the
baseline that of the method it is compared with, the control that of a trivial method (named in the table), which must
fail.
A finding *holds* or *does not hold* when the mean difference within a seed is larger than Student's quantile (97.5
percent: 2.8 standard errors with five seeds, 4.3 with three), and is *undecided* when it is smaller. It is *invalid*
when the control passes. Figures are mean ± standard deviation over the seeds. A claim that does not hold here is a
statement about these small problems, not about the method at its original scale.

    python -m benchmarks.claims [ID ...] [--seeds N]     measure; a stopped run continues
    python -m benchmarks.claims --page                   write this page from benchmarks/results/claims.json
"""

WITHOUT = {
    "144 (speech)": "Zero-shot speech needs a large model; guidance and plans are measured above.",
    "230 (one-step students)": "Students that predict symbols are not measured; path and guidance are, above.",
}
LEFT = "## Rows without a claim\n\nThe claims of these methods are not measured, or only in part."


def page(figures: dict[str, Any]) -> str:
    """The page as Markdown; the same figures give the same text."""
    found = [row for entry in figures.values() for row in entry["findings"]]
    count = Counter(row["verdict"] for row in found)
    verdicts = (
        ", ".join(f"{count[v]} {v}" for v in VERDICTS if count[v] or v != INVALID) if found else "none measured yet"
    )
    lines = [HEAD.format(count=len(figures), findings=len(found), verdicts=verdicts)]
    for method, entry in sorted(figures.items()):
        lines += [f"## {method}: {entry['method']}", "", f"Claim: {entry['claim']}", ""]
        lines += [entry["measured"], ""] if entry["measured"] else []
        if "error" in entry:
            lines += [f"Not measured: {entry['error']}", ""]
            continue
        lines += ["| compares | better | baseline | figure | control | verdict |", "|---|---|---|---|---|---|"]
        lines += [_line(row) for row in entry["findings"]]
        processor, torch = entry["machine"]["processor"], entry["versions"]["torch"]
        lines += ["", f"{len(entry['seeds'])} seeds, {entry['seconds']:.0f} s on one thread of {processor}, "
                  f"torch {torch}, commit {entry['commit']}.", ""]  # fmt: skip
        slow = entry["slow"] and entry["seconds"] > claims.LONGEST  # the time depends on the load of the machine
        lines += [f"More than two minutes: {entry['slow']}", ""] if slow else []
    lines += [LEFT, "", *(f"- {method}: {why}" for method, why in WITHOUT.items())]
    return "\n".join(lines).rstrip("\n") + "\n"


def write(path: Path = PAGE) -> None:
    path.write_text(page(record.read()), encoding="utf-8")


def _line(row: dict[str, Any]) -> str:
    control = f"{_figure(row['control'])} ({row['control']['is']})"
    verdict = row["verdict"] if row["verdict"] == HOLDS else f"**{row['verdict']}**"
    parts = [row["compares"], row["better"], _figure(row["baseline"]), _figure(row["figure"]), control, verdict]
    return "| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |"


def _figure(spread: dict[str, Any]) -> str:
    if spread["mean"] is None:
        return "not finite"
    return f"{spread['mean']:.4g} ± {spread['deviation']:.2g}"
