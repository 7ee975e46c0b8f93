"""Write docs/components.md from the catalogue, and docs/claims.md from the measured claims."""

from pathlib import Path

from beeline.config.catalogue import CATALOGUE
from beeline.config.docs import explain
from benchmarks.claims import page


def markdown() -> str:
    """The page of all components by kind."""
    lines = [
        "# Components",
        "",
        "Generated from the catalogue by `make docs`; `beeline describe NAME` prints a single component.",
        "",
    ]
    lines += [f"[{kind}](#{kind})" for kind in sorted(CATALOGUE)]
    for kind in sorted(CATALOGUE):
        lines += ["", f"## {kind}"]
        for name in CATALOGUE[kind]:
            page = explain(kind, name)
            lines += ["", f"### {kind}.{name}", "", page.sentence, ""]
            lines += ["```", *page.formula.splitlines(), "```", ""] if page.formula else []
            lines += [part for part in (page.assumes, page.source) if part]
            if page.settings:
                lines += ["", "| setting | type | default | meaning |", "|---|---|---|---|"]
                lines += ["| " + " | ".join(cell(c) for c in row) + " |" for row in page.settings]
            if page.example:
                lines += ["", "```python", *page.example.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "components.md").write_text(markdown(), encoding="utf-8")
    page.write()
