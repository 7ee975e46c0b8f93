"""Docstrings for the API pages: formulas of components and examples become code blocks.

A docstring in this package is plain text: a sentence, a formula, ``Assumes ...``, ``Source: ...`` and an example.
"""

import inspect
from typing import Any

import griffe

from beeline.config.catalogue import CATALOGUE

PLACES = {place.replace(":", ".").removesuffix("()") for names in CATALOGUE.values() for place in names.values()}
PROSE = ("Assumes", "Source:", ">>>")


def fenced(text: str, formula: bool) -> str:
    """The text with ``>>>`` examples, and if ``formula`` the lines before the first known part, as code blocks."""
    sentence, _, rest = inspect.cleandoc(text).partition("\n\n")
    out, block = [sentence, ""], ""
    for line in rest.splitlines():
        part = next((word for word in PROSE if line.startswith(word)), "")
        formula = formula and not part
        wanted = "" if not line.strip() or part in PROSE[:2] else "pycon" if part else "text" if formula else block
        if wanted != block:
            out += ["```"] * bool(block) + [f"```{wanted}"] * bool(wanted)
            block = wanted
        out += [""] * bool(part in PROSE[:2]) + [line]
    return "\n".join([*out, *["```"] * bool(block)])


class CodeBlocks(griffe.Extension):
    """Rewrites the docstrings of classes, functions and attributes when they are loaded."""

    def on_instance(self, *, node: Any, obj: griffe.Object, agent: Any, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None and not obj.is_module:
            obj.docstring.value = fenced(obj.docstring.value, obj.is_class and obj.path in PLACES)
