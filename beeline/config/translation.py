"""Descriptions in files: their format, and the names that earlier formats used.

The table of old names is ``beeline/core/old_names.py``, because checkpoints are translated by it too and the engine
imports ``core`` alone.  A renamed component or setting is added there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beeline.core.files import read_plain
from beeline.core.old_names import FORMAT, check_format, translate


def versioned(description: dict[str, Any]) -> dict[str, Any]:
    """A description as it is written to a file, with its format first."""
    return {"format": FORMAT} | description


def read_description(file: str | Path) -> Any:
    """The description in a YAML or JSON file, in the names of today and without its format.

    A file without a format is one of the first version or was written by hand.
    ValueError where it cannot be read, or is of a newer format.
    """
    data = read_plain(Path(file))
    if not isinstance(data, dict):
        return data
    found = check_format(data.pop("format", 1), file)
    return data if found == FORMAT else translate(data)
