"""Write docs/components.md from the catalogue: every component with its formula, assumptions, source and settings."""

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


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(__file__).with_name("components.md").write_text(markdown(), encoding="utf-8")
