"""Detection of identifier columns, by their name or by a pattern in all cells."""

from __future__ import annotations

import re
from typing import Any

NAMING = re.compile(r"(^|_|\b)(id|uuid|guid|key|index|rowid|number|no|ssn|iban|email|e-mail|phone)$", re.IGNORECASE)
"""Names of identifier columns."""
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
"""Patterns of identifiers: UUIDs, digests, e-mail addresses and URLs."""


def names_rows(name: str, full: Any) -> bool:
    """Whether distinct texts or large numbers are identifiers, by the name of the column or a pattern in all cells."""
    if NAMING.search(name.strip()) or name.endswith(("Id", "ID")):
        return True
    if not isinstance(full.iloc[0], str):
        return bool(min(len(str(abs(v))) for v in full) >= 16)  # numbers of so many digits are identifiers
    parts = full.str.extract(r"^(\D*)\d+(\D*)$")
    counted = not parts.isna().any(axis=None) and len(parts.drop_duplicates()) == 1
    return counted or any(bool(full.str.fullmatch(pattern).all()) for pattern in PATTERNS)


def counts_rows(name: str, full: Any, different: int) -> bool:
    """Whether distinct integers are identifiers: 0 or 1 upwards in steps of one, or by the name of the column."""
    if len(full) < 20 or different < len(full):
        return False
    if NAMING.search(name.strip()) or name.endswith(("Id", "ID")):
        return True
    first = int(full.iloc[0])
    return first in (0, 1) and int(full.iloc[-1]) - first == len(full) - 1 and bool(full.is_monotonic_increasing)
