"""The list of components, which starts quickly: nothing but their names and docstrings is read."""

from __future__ import annotations

import json

from beeline.cli.console import console, table
from beeline.config.catalogue import CATALOGUE
from beeline.config.docs import summary
from beeline.core.errors import nearest, require


def list_components(kind: str | None, as_json: bool) -> None:
    """Every component with one line."""
    require(kind is None or kind in CATALOGUE, f"there is no kind {kind!r}; {nearest(kind or '', CATALOGUE)}")
    found = {k: {name: summary(k, name) for name in CATALOGUE[k]} for k in ([kind] if kind else CATALOGUE)}
    if as_json:
        plain = {
            k: [{"name": n, "what": what, "source": source} for n, (what, source) in c.items()]
            for k, c in found.items()
        }
        print(json.dumps(plain, indent=2))
        return
    for k, every in found.items():
        rows = [{"name": n, "what": what} | ({"source": source} if kind else {}) for n, (what, source) in every.items()]
        console.print(table(rows, title=k))
