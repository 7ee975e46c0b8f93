"""Columns that name the rows themselves: told by a word in their name, or by a pattern in all of their cells."""

from __future__ import annotations

import re
from typing import Any

NAMING = re.compile(r"(^|_|\b)(id|uuid|guid|key|index|rowid|number|no|ssn|iban|email|e-mail|phone)$", re.IGNORECASE)
"""Names of columns that name the rows."""
PATTERNS = tuple(
    map(
        re.compile,
        (
            r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
            r"(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64})",
            r"[^@\s]+@[^@\s]+\.[^@\s]+",
            r"https?://\S+",
        ),
    )
)
"""Texts that name a row: UUIDs, digests, addresses of mail and of pages."""


def names_rows(name: str, full: Any) -> bool:
    """Whether different texts or large numbers name the rows: by the name of the column, or by a pattern in all."""
    if NAMING.search(name.strip()) or name.endswith(("Id", "ID")):
        return True
    if not isinstance(full.iloc[0], str):
        return bool(min(len(str(abs(v))) for v in full) >= 16)  # so many digits name things
    parts = full.str.extract(r"^(\D*)\d+(\D*)$")
    counted = not parts.isna().any(axis=None) and len(parts.drop_duplicates()) == 1
    return counted or any(bool(full.str.fullmatch(pattern).all()) for pattern in PATTERNS)


def counts_rows(name: str, full: Any, different: int) -> bool:
    """Whether whole numbers count the rows: all different, and from 0 or 1 in steps of one, or by their name."""
    if len(full) < 20 or different < len(full):
        return False
    if NAMING.search(name.strip()) or name.endswith(("Id", "ID")):
        return True
    first = int(full.iloc[0])
    return first in (0, 1) and int(full.iloc[-1]) - first == len(full) - 1 and bool(full.is_monotonic_increasing)
