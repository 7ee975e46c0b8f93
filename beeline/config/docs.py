"""Documentation of a component, from its docstring and the comments beside its settings.

The command line, the documentation and the web page print these pages.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import re
import sys
import textwrap
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beeline.config.catalogue import CATALOGUE, CUSTOM, find, makes, member, name_of, settings
from beeline.core.errors import nearest, require


@dataclass(frozen=True)
class Page:
    """The parts of the documentation of a component."""

    kind: str
    name: str
    sentence: str
    formula: str
    assumes: str
    source: str
    example: str
    settings: tuple[tuple[str, str, str, str], ...]  # name, type, default ("" when needed), comment


def explain(kind: str, name: str) -> Page:
    """The documentation of a component.

    >>> explain("times", "LogitNormal").settings[0]
    ('mean', 'float', '0.0', 'of the logit; -1 to 1 is usual')
    """
    require(kind in CATALOGUE, f"there is no kind of component {kind!r}; {nearest(kind, CATALOGUE)}")
    full = find(f"{kind}.{name}")
    short, target = full.partition(".")[2], member(full)
    documented = target if isinstance(target, type) or inspect.isfunction(target) else type(target)
    sentence, _, rest = inspect.cleandoc(documented.__doc__ or "").partition("\n\n")
    parts = {"formula": "", "assumes": "", "source": "", "example": ""}
    part = "formula"
    for line in rest.splitlines():
        part = next((p for p, mark in _MARKS if line.startswith(mark)), part)
        parts[part] += line + "\n"
    rows = []
    if documented is not target:  # a constant: the values of its settings
        rows = [(s.name, s.text, repr(getattr(target, s.name)), "") for s in settings(documented).values()]
        sentence = f"{short}: {sentence[0].lower()}{sentence[1:]}"
    elif makes(full):
        comments = _comments(target)
        for s in settings(target).values():
            rows.append((s.name, s.text, "" if s.needed else _short(s.default), comments.get(s.name, "")))
    text = {key: value.strip() for key, value in parts.items()}
    return Page(kind, short, " ".join(sentence.split()), settings=tuple(rows), **text)


def summary(kind: str, name: str) -> tuple[str, str]:
    """The first sentence and the source of a component, read from its file: nothing is imported.

    >>> summary("solvers", "HEUN")[0][:20]
    'HEUN: an explicit Ru'
    """
    module, _, short = CATALOGUE[kind][name].removesuffix("()").partition(":")
    custom = CUSTOM.get(f"{kind}.{name}")
    documented = _documented(module)[short] if custom is None else inspect.getdoc(custom) or ""
    sentence, _, rest = inspect.cleandoc(documented).partition("\n\n")
    _, _, source = rest.partition("Source: ")
    sentence = " ".join(sentence.split())
    if short.isupper():  # a constant: the sentence of its class
        sentence = f"{short}: {sentence[0].lower()}{sentence[1:]}"
    return sentence, " ".join(source.partition("\n\n")[0].partition(">>>")[0].split())


@functools.cache
def _documented(module: str) -> dict[str, str]:
    """Docstrings of the classes and functions of a module, and of the classes of its constants."""
    package, *parts = module.split(".")
    path = Path(str(sys.modules[package].__file__)).parent.joinpath(*parts).with_suffix(".py")
    found: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            cls = ast.unparse(node.value.func)
            found |= {ast.unparse(target): found.get(cls, "") for target in node.targets}
    return found


_MARKS = (("assumes", "Assumes"), ("source", "Source:"), ("example", ">>>"))


def _short(value: Any) -> str:
    full = name_of(value)
    if full is not None and not makes(full):
        return full.partition(".")[2]
    # functions by their names: where they lie in memory is another place every time
    return re.sub(r"<function ([\w.<>]+) at 0x[0-9a-f]+>", r"\1", repr(value))


def _comments(target: Any) -> dict[str, str]:
    """The comment at the end of the line of every setting, through the ancestors of a class."""
    found: dict[str, str] = {}
    for owner in reversed(target.__mro__[:-1]) if isinstance(target, type) else (target,):
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):
            continue
        notes = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:"))
        }
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name, line = node.target.id, node.end_lineno
            elif isinstance(node, ast.arg):
                name, line = node.arg, node.end_lineno
            else:
                continue
            if line in notes:
                found.setdefault(name, notes[line])
    return found
