"""Conditions in the notation of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from beeline.config.settings import plain, shown
from beeline.core.errors import BeelineError, require
from beeline.core.files import read_plain


def condition(text: str | None) -> Any:
    """A condition from the command line: NAME=VALUE[,NAME=VALUE], a bare value, or a JSON or YAML file."""
    if text is None:
        return None
    if Path(text).suffix in (".json", ".yaml", ".yml"):
        require(Path(text).is_file(), f"there is no file {text}; give a JSON or YAML file of conditions, or NAME=VALUE")
        return read_plain(Path(text))
    try:
        if "=" in text and not text.lstrip().startswith("{"):
            values: Any = {}
            for name, sign, value in (part.partition("=") for part in _split(text)):
                require(
                    name.strip() and sign and value.strip(),
                    f"--condition got {text!r}, where {name + sign + value!r} is not a condition; give NAME=VALUE, "
                    'for example label=3; an empty text is NAME=""',
                )
                require(name.strip() not in values, f"--condition got {text!r}, with two values of {name!r}; give one")
                values[name.strip()] = _value(value)
        else:
            values = _value(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, BeelineError):
            raise
        raise BeelineError(
            f"--condition got {shown(text)}, which cannot be read; give NAME=VALUE, for example label=3"
        ) from None
    require(values is not None, f"--condition got {text!r}, which is empty; leave it out, or give NAME=VALUE")
    plain(values, "--condition")
    return values


def _value(text: str) -> Any:
    """A value as text, which is converted by the type of its column or label: NO is a country, 01034 a code.

    Text in brackets or quotes is parsed as YAML, and null is None.
    """
    text = text.strip()
    return yaml.safe_load(text) if text[:1] in ("[", "{", "'", '"') or text in ("null", "~") else text


def _split(text: str) -> list[str]:
    """Parts at commas outside brackets; a part without "=" continues the one before, as in a prompt with commas."""
    parts, depth, start = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    joined: list[str] = []
    for part in (*parts, text[start:]):
        joined[-1:] = [f"{joined[-1]},{part}"] if joined and "=" not in part and part.strip() else [*joined[-1:], part]
    return joined
