"""``beeline list``: reads names and docstrings of components without importing them."""

from __future__ import annotations

import json

from beeline.cli.console import console, table
from beeline.config.catalogue import CATALOGUE
from beeline.config.docs import summary
from beeline.core.errors import nearest, require


def list_components(kind: str | None, as_json: bool) -> None:
    """Print every component of a kind, or of all kinds, with its summary."""
    require(
        kind is None or kind in CATALOGUE, f"there is no kind of component {kind!r}; {nearest(kind or '', CATALOGUE)}"
    )
    found = {k: {name: summary(k, name) for name in CATALOGUE[k]} for k in ([kind] if kind else CATALOGUE)}
    if as_json:
        plain = {
            k: [{"name": n, "what": text, "source": source} for n, (text, source) in c.items()]
            for k, c in found.items()
        }
        print(json.dumps(plain, indent=2))
        return
    for k, every in found.items():
        rows = [{"name": n, "what": text} | ({"source": source} if kind else {}) for n, (text, source) in every.items()]
        console.print(table(rows, title=k))
