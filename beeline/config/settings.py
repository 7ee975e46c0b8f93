"""Conversion of plain data and text to the types of a component's settings.

Text is read as Python literals and as calls of catalogue names; nothing is evaluated and no path is imported.
Every refusal begins with the dotted path of its setting.
"""

from __future__ import annotations

import ast
import pathlib
import re
import reprlib
import types
import typing
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from beeline.config.catalogue import CATALOGUE, WORDS, Setting, find, makes, member, name_of, settings
from beeline.core.errors import BeelineError, nearest, require

DEEPEST = 40  # deepest nesting of values that is read, so that the stack is not exhausted
WHOLE = 2**63 - 1  # the largest whole number that a tensor holds


_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


class Text(str):
    """Text of a value that is parsed once the setting it belongs to is known."""


class UnfitError(BeelineError):
    """A value of the wrong type; another type of a union may fit."""


def make(full: str, given: Mapping[str, Any], where: str) -> Any:
    """A member from its settings."""
    target, name = member(full), full.partition(".")[2]
    if not makes(full):
        require(not given, f"{at(where)}{full} has no settings, but got {sorted(given)}; leave them out")
        return target
    return construct(target, name, given, where)


def construct(target: Any, name: str, given: Mapping[str, Any], where: str) -> Any:
    """A value of the class (or maker) ``target``, called ``name``, from plain settings that fit its signature."""
    known = settings(target)
    check_names(given, known, name, where)
    missing = [s.name for s in known.values() if s.needed and s.name not in given]
    require(
        not missing,
        f"{at(where)}{name} lacks {', '.join(missing)}, without which it is not defined; "
        f"give it as {name}({', '.join(f'{m}=...' for m in missing)})",
    )
    fitted = {key: fit(value, known[key], join(where, key)) for key, value in given.items()}
    with constructing(name, where):
        return target(**fitted)


def check_names(given: Mapping[str, Any], known: Mapping[str, Setting], owner: str, where: str) -> None:
    for key in given:
        require(key in known, f"{at(where)}{owner} has no setting {key!r}; {nearest(key, known)}")


def fit(value: Any, slot: Setting, where: str, present: Any = None) -> Any:
    """A value as the setting ``slot`` wants it; ``present`` is what stands there now."""
    kinds = slot.kinds
    if value is None and slot.default is None:
        return None
    if present is not None and (full := name_of(present)) is not None:
        kinds = tuple(dict.fromkeys((*kinds, full.partition(".")[0])))
    return cast(value, slot.hint, kinds, where)


def free(value: Any, where: str, kinds: tuple[str, ...] = (), strict: bool = False) -> Any:
    """A value without a declared type: descriptions are built, text is parsed, the rest is returned as it is."""
    if isinstance(value, Text):
        if strict or kinds or "(" in value or "." in value:
            return component(value, kinds, where)
        return str(value)
    if isinstance(value, Mapping) and "is" in value:
        return component(value, kinds, where)
    if kinds and isinstance(value, str):
        return component(value, kinds, where)
    if kinds and (value is None or isinstance(value, bool | int | float | list | tuple | Mapping)):
        raise _unfit(value, None, kinds, where)
    if isinstance(value, Mapping):
        return {key: free(item, join(where, str(key)), (), strict) for key, item in value.items()}
    if isinstance(value, list):
        return [free(item, join(where, str(i)), (), strict) for i, item in enumerate(value)]
    return value


def cast(value: Any, hint: Any, kinds: tuple[str, ...], where: str) -> Any:
    """``value`` as a ``hint``; UnfitError when it is something else."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if type(value) is str and float in (hint, *inside) and str not in inside and _EXPONENT.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-3 as text
    if hint is Any or isinstance(hint, typing.TypeVar):
        return free(value, where, kinds)
    if origin in (typing.Union, types.UnionType):
        deeper: UnfitError | None = None
        for choice in sorted(inside, key=lambda h: not _is(value, h)):
            try:
                return cast(value, choice, kinds, where)
            except UnfitError as error:  # of a setting inside, where the value as a whole would fit
                deeper = deeper if str(error).startswith(at(where)) else error
        raise deeper or _unfit(value, hint, kinds, where)
    if origin is typing.Literal:
        text = str(value) if isinstance(value, str) else value
        if text not in inside:
            raise UnfitError(f"{at(where)}got {shown(value)}; {nearest(str(value), map(str, inside))}")
        return text
    if hint in (bool, int, float, str, type(None)):
        return _plain(value, hint, kinds, where)
    if hint is Tensor:
        return _tensor(value, where)
    if hint is pathlib.Path and isinstance(value, str):
        return pathlib.Path(value)
    kind = getattr(origin or hint, "__name__", "")
    if origin is tuple or hint is tuple or kind in ("list", "Sequence"):
        return _row(value, origin or hint, inside, kinds, where)
    if kind in ("dict", "Mapping"):
        if not isinstance(value, Mapping):
            raise _unfit(value, hint, kinds, where)
        if kinds and inside[1:] not in ((), (Any,)) and "is" not in value:  # components by name
            return {str(name): cast(item, inside[1], kinds, join(where, str(name))) for name, item in value.items()}
        return dict(value)  # plain data stay plain, also where they describe a component
    if value is None or isinstance(value, bool | int | float | list | tuple):
        raise _unfit(value, hint, kinds, where)
    return component(value, kinds, where)


def _is(value: Any, hint: Any) -> bool:
    return hint is type(value) or (hint is str and isinstance(value, str) and not isinstance(value, Text))


def _plain(value: Any, hint: Any, kinds: tuple[str, ...], where: str) -> Any:
    if hint is str and isinstance(value, str):
        return str(value)
    if isinstance(value, str):  # YAML reads 1e-3 as a text, and a command line gives nothing else
        value = read(value)
        value = WORDS.get(value.lower(), value) if isinstance(value, Text) else value
    fits = type(value) is hint
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        fits = hint is float or value == value // 1
    if not fits:
        raise _unfit(value, hint, kinds, where)
    return None if value is None else hint(small(value, where) if hint is float else small(int(value), where))


def small(value: Any, where: str) -> Any:
    """A plain value; refused where it is a whole number that no tensor can hold."""
    require(
        not isinstance(value, int) or abs(value) <= WHOLE,
        f"{at(where)}got a whole number of about {value.bit_length() if isinstance(value, int) else 0} bits; "
        "whole numbers have 63 bits and a sign: give one below 9.2e18",
    )
    return value


def plain(data: Any, where: str, depth: int = 0) -> None:
    """Refuse values that are not plain data: other types, keys that are not text, deep nesting."""
    require(
        depth <= DEEPEST,
        f"{at(where)}is nested more than {DEEPEST} levels deep, which no setting is; remove the superfluous brackets",
    )
    if isinstance(data, Mapping):
        for key, value in data.items():
            require(
                isinstance(key, str | int),
                f"{at(where)}has the name {shown(key)} ({type(key).__name__}), but names are text; put it in quotes",
            )
            plain(value, join(where, str(key)), depth + 1)
    elif isinstance(data, list | tuple):
        for i, value in enumerate(data):
            plain(value, join(where, str(i)), depth + 1)
    elif type(data).__module__ in ("builtins", "datetime") and not isinstance(data, PLAIN):
        raise BeelineError(
            f"{at(where)}got {shown(data)} ({type(data).__name__}), which is no setting; give a number, a text, true, "
            "false, none, a list or settings by name"
        )
    else:
        small(data, where)


PLAIN = (bool, int, float, str, type(None), type, types.FunctionType)


def _tensor(value: Any, where: str) -> Any:
    if isinstance(value, str):
        value = read(value)
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, list | tuple | int | float) and not isinstance(value, bool):
            return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise UnfitError(f"{at(where)}got {shown(value)}, which is no array; give numbers in lists of equal length")


def _row(value: Any, kind: Any, inside: tuple[Any, ...], kinds: tuple[str, ...], where: str) -> Any:
    if isinstance(value, str):
        value = read(value)
    if not isinstance(value, list | tuple):
        raise _unfit(value, kind, kinds, where)
    many = kind is not tuple or not inside or inside[-1] is Ellipsis
    require(
        many or len(inside) == len(value),
        f"{at(where)}got {len(value)} values, but it takes {len(inside)}; give as many, for example as (a, b)",
    )
    hints = [inside[0] if inside else Any] * len(value) if many else inside
    row = [cast(v, h, kinds, join(where, str(i))) for i, (v, h) in enumerate(zip(value, hints, strict=True))]
    return tuple(row) if kind is tuple else row


def component(value: Any, kinds: tuple[str, ...], where: str) -> Any:
    """A part from its description, its text, or itself; refused when it is of another kind."""
    if isinstance(value, Mapping) and "is" in value:
        with prefixed(where):
            full = find(str(value["is"]), kinds)
        return make(full, {k: v for k, v in value.items() if k != "is"}, where)
    if isinstance(value, str):
        return _from_text(value, kinds, where)
    kind = (name_of(value) or "").rpartition(".")[0]
    # an unregistered class of the user has no kind and is accepted
    if isinstance(value, Mapping) or (kinds and kind and kind not in kinds):
        raise _unfit(value, None, kinds, where)
    return value


def _from_text(text: str, kinds: tuple[str, ...], where: str) -> Any:
    text = text.strip()
    with prefixed(where):
        node = _parsed(text)
        if not isinstance(node, ast.Call):
            return WORDS[text.lower()] if text.lower() in WORDS else make(find(text, kinds), {}, "")
        full = find(ast.unparse(node.func), kinds)
        names = list(settings(member(full))) if makes(full) else []
        require(
            len(node.args) <= len(names) and all(k.arg for k in node.keywords),
            f"{text!r} has more values than {full} has settings; they are: {', '.join(names) or 'none'}",
        )
        given = {name: _data(arg, text) for name, arg in zip(names, node.args, strict=False)}
        for keyword in node.keywords:
            require(keyword.arg not in given, f"{text!r} gives {keyword.arg} twice; give it once")
            given[str(keyword.arg)] = _data(keyword.value, text)
    return make(full, given, where)


def read(text: str) -> Any:
    """Plain data where a text is a literal; names and calls in it stay text until their setting is known."""
    text = text.strip()
    node = _parsed(text)
    return Text(text) if node is None else _data(node, text)


def _parsed(text: str) -> ast.expr | None:
    """The expression that a text is, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about the style of a program, which this is not
            node = ast.parse(text, mode="eval").body
            _depth(node)
            return node
    except (SyntaxError, ValueError):
        return None
    except (RecursionError, MemoryError):
        raise BeelineError(f"got {shown(text)}, which is nested too deeply; remove the superfluous brackets") from None


def _depth(node: ast.AST, depth: int = 0) -> None:
    if depth > 2 * DEEPEST:
        raise RecursionError
    for inner in ast.iter_child_nodes(node):
        _depth(inner, depth + 1)


def _data(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Tuple | ast.List):
        return [_data(item, text) for item in node.elts]
    written = ast.get_source_segment(text, node) or ""
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        require(
            all(isinstance(key, str | int) for key in keys),
            f"got {shown(written)}, where a name is no text; give names in quotes, as in {{'label': 3}}",
        )
        return dict(zip(keys, (_data(item, text) for item in node.values), strict=True))
    if isinstance(node, ast.Name) and node.id.lower() in WORDS:
        return WORDS[node.id.lower()]
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return Text(written)  # as written: two-moons is a name, x/y a path
    plain(value, "")
    return value


def shown(value: Any) -> str:
    """A value for a message, which stays one line however long it is."""
    text = SHORT.repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxlong, SHORT.maxstring, SHORT.maxother = 4, 60, 120, 120
SHORT.maxlist = SHORT.maxtuple = SHORT.maxdict = SHORT.maxset = 12


def _unfit(value: Any, hint: Any, kinds: tuple[str, ...], where: str) -> UnfitError:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    wanted = [words[c] for c in choices if c in words]
    wanted += [f"one of the {kind} ({', '.join(CATALOGUE[kind])})" for kind in kinds if kind in CATALOGUE]
    name = getattr(hint, "__name__", str(hint))
    got = f"{shown(value)} ({name_of(value) or type(value).__name__})"
    return UnfitError(
        f"{at(where)}got {got}, which does not fit this setting; give {' or '.join(wanted) or f'a {name}'}"
    )


def join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def at(where: str) -> str:
    return f"{where}: " if where else ""


class prefixed:  # noqa: N801 - read as a verb
    """Adds the dotted path of a setting in front of the message of an error."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.where and isinstance(error, ValueError) and not str(error).startswith(self.where):
            raise BeelineError(f"{self.where}: {error}") from error


class constructing(prefixed):  # noqa: N801 - read as a verb
    """Turns an exception of a component's constructor into a BeelineError of one line with the dotted path."""

    def __init__(self, owner: str, where: str):
        super().__init__(where)
        self.owner = owner

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, TypeError | ArithmeticError | LookupError | AttributeError | RuntimeError | MemoryError):
            raise BeelineError(
                f"{at(self.where)}{self.owner} cannot be created from these settings ({type(error).__name__}: "
                f"{shown(str(error))}); see 'beeline describe {self.owner}' for what it takes"
            ) from error


def anything(name: str) -> Setting:
    """A setting that may hold anything, for the items of lists and mappings."""
    return Setting(name, "Any", Any, None, ())
