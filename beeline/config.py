"""Components <-> plain data: what stands in files and on the command line becomes objects here, and nowhere else.

    describe(LogitNormal(0.5))  ->  {"is": "times.LogitNormal", "mean": 0.5, "std": 1.0}   and build back
    change(sampler, {"steps": 8, "schedule": "Shifted(3)"})                                 a new, changed sampler

Only members of the catalogue can be named: no text is evaluated and no path imported.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beeline.catalogue import CATALOGUE, WORDS, Setting, find, makes, member, name_of, settings
from beeline.core.types import BeelineError, nearest, require

LARGEST = 10_000  # numbers of a tensor that still count as a setting; more is data and belongs in a file of its own


class _Text(str):
    """Source text of a value that is read when the setting it is for is known."""


class _Unfit(BeelineError):
    """A value of the wrong type, where another type of a union may still fit."""


def describe(part: Any) -> Any:
    """Plain data (dict, list, str, int, float, bool, None) from which ``build`` makes an equal part.

    A network is described by its architecture; its weights are not plain data.

    >>> from beeline.core.times import LogitNormal
    >>> describe(LogitNormal(0.5))
    {'is': 'times.LogitNormal', 'mean': 0.5, 'std': 1.0}
    """
    return _describe(part, "")


def build(data: Any) -> Any:
    """The part that plain data describe; ValueError names the setting that is unknown, missing or unfit.

    Networks are initialised from torch's global state: build them under ``with rng.ambient():``.

    >>> build({"is": "solvers.RK4"}).order
    4
    """
    return _free(data, "")


def parse(text: str, kind: str | None = None) -> Any:
    """What a text on the command line means: a number, true, none, or a component with its settings.

    >>> parse("LogitNormal(mean=0.5)"), parse("1e-3"), parse("schedules.uniform")
    (LogitNormal(mean=0.5, std=1.0), 0.001, Uniform())
    """
    require(kind is None or kind in CATALOGUE, f"there is no kind of component {kind!r}; {nearest(kind or '', CATALOGUE)}")
    return _free(_read(text), "", () if kind is None else (kind,), strict=True)


def change(part: Any, changes: Mapping[str, Any]) -> Any:
    """The part with other settings, named by dotted paths; a text is read as on the command line.

    Works on components, and on plain data that describe one.  A changed network is a new one, with new weights.

    >>> from beeline.use.sampler import Sampler
    >>> change(Sampler(), {"steps": "8", "schedule": "Shifted(2)", "schedule.shift": 3}).schedule
    Shifted(shift=3.0)
    """
    return _change(part, changes, "")


def _describe(part: Any, where: str) -> Any:
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, Tensor | np.ndarray | np.generic):
        return _numbers(torch.as_tensor(part), where)
    if isinstance(part, Mapping):
        return {str(key): _describe(value, _join(where, str(key))) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_describe(value, _join(where, str(i))) for i, value in enumerate(part)]
    if isinstance(part, os.PathLike):
        return os.fspath(part)
    full = name_of(part)
    if full is None:
        raise BeelineError(
            f"{_at(where)}{getattr(part, '__qualname__', type(part).__name__)} is not in the catalogue; a file can only "
            "name what every reader of it knows: list it in beeline/catalogue.py, or keep this part in code"
        )
    if not makes(full):
        return {"is": full}
    given = _settings_of(part)
    for name, value in given.items():
        require(
            not isinstance(value, nn.Module) or isinstance(part, nn.Module),
            f"{_at(_join(where, name))}{full} holds a network, whose weights are not plain data; "
            "keep this part in code, and save the network as a bundle",
        )
    return {"is": full} | {name: _describe(value, _join(where, name)) for name, value in given.items()}


def _numbers(tensor: Tensor, where: str) -> Any:
    require(
        tensor.numel() <= LARGEST and not tensor.is_complex(),
        f"{_at(where)}a tensor of shape {tuple(tensor.shape)} and {tensor.dtype} is not a setting but data; "
        "keep it in a file of its own and name the file",
    )
    return tensor.tolist()


def _settings_of(part: Any) -> dict[str, Any]:
    """The settings with which a part was made."""
    if hasattr(part, "describe"):
        return dict(part.describe())
    return {name: getattr(part, name) for name in settings(type(part))}


def _make(full: str, given: Mapping[str, Any], where: str) -> Any:
    """A member from its settings."""
    target, name = member(full), full.partition(".")[2]
    if not makes(full):
        require(not given, f"{_at(where)}{full} has no settings, but got {sorted(given)}; leave them out")
        return target
    known = settings(target)
    _known(given, known, name, where)
    missing = [s.name for s in known.values() if s.needed and s.name not in given]
    require(
        not missing,
        f"{_at(where)}{name} lacks {', '.join(missing)}, without which it is not defined; "
        f"give it as {name}({', '.join(f'{m}=...' for m in missing)})",
    )
    fitted = {key: _fit(value, known[key], _join(where, key)) for key, value in given.items()}
    with _prefixed(where):
        return target(**fitted)


def _known(given: Mapping[str, Any], known: Mapping[str, Setting], owner: str, where: str) -> None:
    for key in given:
        require(key in known, f"{_at(where)}{owner} has no setting {key!r}; {nearest(key, known)}")


def _fit(value: Any, slot: Setting, where: str, present: Any = None) -> Any:
    """A value as the setting ``slot`` wants it; ``present`` is what stands there now."""
    kinds = slot.kinds
    if present is not None and (full := name_of(present)) is not None:
        kinds = tuple(dict.fromkeys((*kinds, full.partition(".")[0])))
    return _cast(value, slot.hint, kinds, where)


def _free(value: Any, where: str, kinds: tuple[str, ...] = (), strict: bool = False) -> Any:
    """A value of no declared type: described parts are built, text is read, the rest stays."""
    if isinstance(value, _Text):
        if strict or kinds or "(" in value or "." in value:
            return _component(value, kinds, where)
        return str(value)
    if isinstance(value, Mapping):
        if "is" in value:
            return _component(value, kinds, where)
        return {key: _free(item, _join(where, str(key)), (), strict) for key, item in value.items()}
    if isinstance(value, list):
        return [_free(item, _join(where, str(i)), (), strict) for i, item in enumerate(value)]
    return value


def _cast(value: Any, hint: Any, kinds: tuple[str, ...], where: str) -> Any:
    """``value`` as a ``hint``; _Unfit when it is something else."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return _free(value, where, kinds)
    if origin in (typing.Union, types.UnionType):
        for choice in sorted(inside, key=lambda h: not _is(value, h)):
            try:
                return _cast(value, choice, kinds, where)
            except _Unfit:
                continue
        raise _unfit(value, hint, kinds, where)
    if origin is typing.Literal:
        text = str(value) if isinstance(value, str) else value
        if text not in inside:
            raise _Unfit(f"{_at(where)}got {value!r}; {nearest(str(value), map(str, inside))}")
        return text
    if hint in (bool, int, float, str, type(None)):
        return _plain(value, hint, kinds, where)
    if hint is Tensor:
        return torch.as_tensor(value) if isinstance(value, list | tuple | int | float) else value
    if hint is pathlib.Path and isinstance(value, str):
        return pathlib.Path(value)
    if origin is tuple or hint is tuple or getattr(origin or hint, "__name__", "") in ("list", "Sequence"):
        return _row(value, origin or hint, inside, kinds, where)
    if getattr(origin or hint, "__name__", "") in ("dict", "Mapping"):
        if not isinstance(value, Mapping):
            raise _unfit(value, hint, kinds, where)
        return dict(value)  # plain data stay plain, also where they describe a component
    if value is None or isinstance(value, bool | int | float | list | tuple):
        raise _unfit(value, hint, kinds, where)
    return _component(value, kinds, where)


def _is(value: Any, hint: Any) -> bool:
    return hint is type(value) or (hint is str and isinstance(value, str) and not isinstance(value, _Text))


def _plain(value: Any, hint: Any, kinds: tuple[str, ...], where: str) -> Any:
    if hint is str and isinstance(value, str):
        return str(value)
    if isinstance(value, str):  # YAML reads 1e-3 as a text, and a command line gives nothing else
        value = _read(value)
        value = WORDS.get(value.lower(), value) if isinstance(value, _Text) else value
    fits = type(value) is hint
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        fits = hint is float or value == value // 1
    if not fits:
        raise _unfit(value, hint, kinds, where)
    return None if value is None else hint(value)


def _row(value: Any, made: Any, inside: tuple[Any, ...], kinds: tuple[str, ...], where: str) -> Any:
    if isinstance(value, str):
        value = _read(value)
    if not isinstance(value, list | tuple):
        raise _unfit(value, made, kinds, where)
    many = made is not tuple or not inside or inside[-1] is Ellipsis
    require(
        many or len(inside) == len(value),
        f"{_at(where)}got {len(value)} values, but it takes {len(inside)}; give as many, for example as (a, b)",
    )
    hints = [inside[0] if inside else Any] * len(value) if many else inside
    row = [_cast(v, h, kinds, _join(where, str(i))) for i, (v, h) in enumerate(zip(value, hints, strict=True))]
    return tuple(row) if made is tuple else row


def _component(value: Any, kinds: tuple[str, ...], where: str) -> Any:
    """A part from its description, its text, or itself; refused when it is of another kind."""
    if isinstance(value, Mapping) and "is" in value:
        with _prefixed(where):
            full = find(str(value["is"]), kinds)
        return _make(full, {k: v for k, v in value.items() if k != "is"}, where)
    if isinstance(value, str):
        return _from_text(value, kinds, where)
    kind = (name_of(value) or "").partition(".")[0]
    # a class of the user's own is in no kind, and welcome: a protocol asks for no membership
    if isinstance(value, Mapping) or (kinds and kind and kind not in kinds):
        raise _unfit(value, None, kinds, where)
    return value


def _from_text(text: str, kinds: tuple[str, ...], where: str) -> Any:
    with _prefixed(where):
        try:
            node: ast.expr | None = ast.parse(text.strip(), mode="eval").body
        except SyntaxError:
            node = None
        if not isinstance(node, ast.Call):
            word = text.strip()
            return WORDS[word.lower()] if word.lower() in WORDS else _make(find(word, kinds), {}, "")
        full = find(ast.unparse(node.func), kinds)
        names = list(settings(member(full))) if makes(full) else []
        require(
            len(node.args) <= len(names) and all(k.arg for k in node.keywords),
            f"{text!r} has more values than {full} has settings; they are: {', '.join(names) or 'none'}",
        )
        given = {name: _data(arg) for name, arg in zip(names, node.args, strict=False)}
        for keyword in node.keywords:
            require(keyword.arg not in given, f"{text!r} gives {keyword.arg} twice; give it once")
            given[str(keyword.arg)] = _data(keyword.value)
    return _make(full, given, where)


def _read(text: str) -> Any:
    """Plain data where a text is a literal; names and calls in it stay text until their setting is known."""
    try:
        return _data(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        return _Text(text.strip())


def _data(node: ast.expr) -> Any:
    if isinstance(node, ast.Tuple | ast.List):
        return [_data(item) for item in node.elts]
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {ast.literal_eval(typing.cast(ast.expr, k)): _data(v) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Name) and node.id.lower() in WORDS:
        return WORDS[node.id.lower()]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _Text(ast.unparse(node).replace(" - ", "-"))  # two-moons is a name


def _change(part: Any, changes: Mapping[str, Any], where: str) -> Any:
    heads: dict[str, dict[str, Any]] = {}
    for dotted, value in changes.items():
        head, _, rest = dotted.partition(".")
        heads.setdefault(head, {})[rest] = value
    if part is None or isinstance(part, bool | int | float | str | Tensor):
        raise BeelineError(
            f"{where} is {part!r}, which has no setting {next(iter(heads))!r} inside; "
            f"set {where or 'it'} itself, to a component with that setting"
        )
    if isinstance(part, list | tuple):
        known: Mapping[str, Setting] = {str(i): _any(str(i)) for i in range(len(part))}
        now: dict[str, Any] = {str(i): item for i, item in enumerate(part)}
        owner = where or "this list"
    elif isinstance(part, Mapping):
        described = "is" in part
        known = settings(member(find(str(part["is"])))) if described else {str(k): _any(str(k)) for k in part}
        now, owner = dict(part), str(part["is"]).rpartition(".")[2] if described else where or "this mapping"
    else:
        known, now, owner = settings(type(part)), _settings_of(part), type(part).__name__
    _known(heads, known, owner, where)
    new = {}
    for head, inner in heads.items():
        at, value = _join(where, head), now.get(head, known[head].default)
        if "" in inner:
            value = _fit(_typed(inner.pop(""), known[head].hint), known[head], at, value)
            value = describe(value) if isinstance(part, Mapping) else value
        new[head] = _change(value, inner, at) if inner else value
    if isinstance(part, list | tuple):
        return type(part)((now | new).values())
    if isinstance(part, Mapping):
        return now | new
    with _prefixed(_join(where, next(iter(new))) if len(new) == 1 else where):
        return dataclasses.replace(part, **new) if dataclasses.is_dataclass(part) else type(part)(**(now | new))


def _typed(value: Any, hint: Any) -> Any:
    """A text from the command line, read; as it is where the setting holds text itself."""
    if not isinstance(value, str) or hint is str:
        return value
    if str in typing.get_args(hint):
        return None if WORDS.get(value.lower(), value) is None else value
    return _read(value)


def _any(name: str) -> Setting:
    return Setting(name, "Any", Any, None, ())


def _unfit(value: Any, hint: Any, kinds: tuple[str, ...], where: str) -> _Unfit:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    wanted = [words[c] for c in choices if c in words]
    wanted += [f"one of the {kind} ({', '.join(CATALOGUE[kind])})" for kind in kinds if kind in CATALOGUE]
    name = getattr(hint, "__name__", str(hint))
    got = f"{value!r} ({name_of(value) or type(value).__name__})"
    return _Unfit(f"{_at(where)}got {got}, which does not fit this setting; give {' or '.join(wanted) or f'a {name}'}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _at(where: str) -> str:
    return f"{where}: " if where else ""


class _prefixed:  # noqa: N801 - read as a verb
    """Puts the dotted path of a setting before the message of a component that refuses it."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.where and isinstance(error, ValueError) and not str(error).startswith(self.where):
            raise BeelineError(f"{self.where}: {error}") from error
