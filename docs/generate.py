"""Write docs/components.md from the catalogue, and docs/claims.md from the claims that were measured."""

import ast
import json
from pathlib import Path

from beeline.catalogue import CATALOGUE
from beeline.pages import explain


def markdown() -> str:
    lines = ["# Components", "", "Made from the catalogue by `make docs`; `beeline show NAME` prints the same.", ""]
    lines += [f"[{kind}](#{kind})" for kind in sorted(CATALOGUE)]
    for kind in sorted(CATALOGUE):
        lines += ["", f"## {kind}"]
        for name in CATALOGUE[kind]:
            page = explain(kind, name)
            lines += ["", f"### {kind}.{name}", "", page.sentence, ""]
            lines += ["```", *page.formula.splitlines(), "```", ""] if page.formula else []
            lines += [part for part in (page.assumes, page.source) if part]
            if page.settings:
                lines += ["", "| setting | type | default | |", "|---|---|---|---|"]
                lines += ["| " + " | ".join(cell(c) for c in row) + " |" for row in page.settings]
            if page.example:
                lines += ["", "```python", *page.example.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def claims(root: Path) -> str:
    """Every claim with its figures; where one does not hold, what its file says about it."""
    rows = json.loads((root / "benchmarks/results/claims.json").read_text(encoding="utf-8"))
    holds = sum(row["holds"] for row in rows)
    lines = [
        "# Claims, measured again",
        "",
        f"{len({row['id'] for row in rows})} methods, {len(rows)} findings, {holds} of which hold at this size: small",
        "exact or real problems, one seed, a few seconds each.  A claim that does not hold here is a finding about",
        "this size, not a verdict on the method.",
        "",
        "    python -m benchmarks.claims [ID ...] [--json FILE]",
    ]
    for method in dict.fromkeys(row["id"] for row in rows):
        mine = [row for row in rows if row["id"] == method]
        source = (root / f"benchmarks/claims/c{method}.py").read_text(encoding="utf-8")
        lines += ["", f"## {method}: {mine[0]['method']}", "", ast.get_docstring(ast.parse(source)) or "", ""]
        lines += ["| compares | baseline | figure | better | holds |", "|---|---|---|---|---|"]
        lines += [
            f"| {cell(row['compares'])} | {row['baseline']:.4g} | {row['figure']:.4g} | {row['better']} "
            f"| {'yes' if row['holds'] else '**no**'} |"
            for row in mine
        ]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "components.md").write_text(markdown(), encoding="utf-8")
    (here / "claims.md").write_text(claims(here.parent), encoding="utf-8")
