"""What describes data, by column, and its encoders, by condition."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import nearest, require
from beeline.core.protocols.data import ConditionEncoder
from beeline.core.ranges import dataclass
from beeline.networks.embed import FREE

TEXT = "text"  # the column of captions, and the condition of a text encoder that was given without a name


@plain_dataclass(frozen=True, eq=False)
class Columns:
    """Values that describe N data, such as captions, by the name of their column; None where one is missing."""

    values: Mapping[str, Sequence[Any]]

    def rows(self, index: Any) -> Columns:
        """The values at ``index``, an integer array or a slice."""
        chosen = np.arange(max(map(len, self.values.values()), default=0))[index].tolist()
        return Columns({name: [part[i] for i in chosen] for name, part in self.values.items()})

    def lines(self) -> list[str]:
        """The values of every row as one line of JSON."""
        names = sorted(self.values)
        rows = zip(*(self.values[name] for name in names), strict=True)
        return [json.dumps(dict(zip(names, row, strict=True)), default=np.ndarray.tolist) for row in rows]

    @staticmethod
    def of_lines(lines: Sequence[str]) -> Columns:
        """The columns whose ``lines`` these are."""
        rows = [json.loads(line) for line in lines]
        return Columns({name: [row[name] for row in rows] for name in (rows[0] if rows else {})})

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all values."""
        text = "\n".join(self.lines())
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@plain_dataclass(frozen=True)
class Stored:
    """The conditions of all encoders: a call gives those of some rows, in the dtype in which they are stored."""

    parts: Mapping[str, Callable[[Tensor], dict[str, Tensor]]]

    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        return {_full(name, k): leaf for name, part in self.parts.items() for k, leaf in part(rows).items()}


@dataclass(frozen=True)
class Descriptions:
    """Frozen encoders of what describes data, by the name of their condition.

    cond[NAME] = encoder(column of NAME), cond[NAME.pooled] = the pooled output of the same encoder
    Assumes that the encoders can be loaded where samples are given conditions in the user's form; other weights than
    those that encoded the training data are refused.
    Source: Esser et al. 2024 (arXiv 2403.03206), several text encoders as conditions of one flow.

    >>> from beeline.data.described.encoders import Numbers
    >>> Descriptions({"boxes": Numbers(4, length=8)}).conditions
    {'boxes': {'length': 8, 'size': 4}}
    """

    encoders: Mapping[str, ConditionEncoder]
    weights: Mapping[str, str] = field(default_factory=dict)  # hashes of the encoders by name, set by ``fit``

    def __post_init__(self) -> None:
        for name in self.encoders:
            require(
                bool(name) and "." not in name,
                f"Descriptions got the condition {name!r}; a full stop separates a name from a part of it, such as "
                "text.pooled: give another name",
            )

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        """The conditions, as networks take them."""
        return {_full(n, part): dict(spec) for n, e in self.encoders.items() for part, spec in e.sizes.items()}

    @property
    def columns(self) -> set[str]:
        """The columns that are read."""
        return {self._name(name) for name in self.encoders}

    def chosen(self, arrays: Mapping[str, Any], n: int) -> Columns:
        """The columns that are read, out of arrays with ``n`` rows."""
        found = {name: arrays[name] for name in self.columns if name in arrays and len(arrays[name]) == n}
        return Columns({name: part.tolist() if part.ndim == 1 else list(part) for name, part in found.items()})

    @property
    def numbers(self) -> int:
        """How many numbers the conditions of one datum are."""
        return sum(math.prod(shape_of(spec)) for spec in self.conditions.values())

    def fit(self) -> Descriptions:
        """The same with the hashes of the encoders."""
        return replace(self, weights={name: encoder.digest() for name, encoder in self.encoders.items()})

    def stored(self, columns: Columns) -> Stored:
        """A function that gives the conditions of some rows; every encoder runs now, on what it has not seen yet."""
        return Stored({name: encoder.stored(self._column(name, columns)) for name, encoder in self.encoders.items()})

    def encode(self, columns: Columns, n: int) -> dict[str, Tensor]:
        """The conditions of all rows in float32."""
        return {name: leaf.float() for name, leaf in self.stored(columns)(torch.arange(n)).items()}

    def parted(self, value: Any) -> tuple[dict[str, Any], Any]:
        """(what a condition in the user's form says of these, the rest of it).

        The name of a column is that of all conditions made from it, unless they are named too.  Bare text, or a list
        of it, is that of the only column without numbers.
        """
        texts = isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value))
        readers = [name for name, encoder in self.encoders.items() if not encoder.depth]
        if texts and value and len({self._name(name) for name in readers}) == 1:
            return dict.fromkeys(readers, value), None
        if not isinstance(value, Mapping):
            return {}, value
        known = {name: next((key for key in (name, self._name(name)) if key in value), None) for name in self.encoders}
        given = {name: value[key] for name, key in known.items() if key is not None}
        rest = {key: part for key, part in value.items() if key not in {*self.encoders, *self.columns}}
        return given, rest or None

    def given(self, value: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """The conditions of ``n`` samples from values by name, one for all or one for each; without one, the null."""
        made: dict[str, Tensor] = {}
        for name, encoder in self.encoders.items():
            one: Any = value.get(name)
            if one is not None:
                self._check_weights(name)
            if encoder.depth and isinstance(one, Tensor | np.ndarray):
                one = one.tolist()
            each = _depth(one) > encoder.depth
            require(
                not each or len(one) == n,
                f"{len(one) if each else 1} values were given as the condition {name!r} of {n} samples; give one for "
                "all, or one for each",
            )
            found = encoder.encode(list(one) if each else [one])
            for leaf in found.values():
                require(
                    len(leaf) in (1, n),
                    f"{len(leaf)} values were given as the condition {name!r} of {n} samples; give one for all, or one "
                    "for each",
                )
            made |= {_full(name, k): leaf if each else leaf.expand(n, *leaf.shape[1:]) for k, leaf in found.items()}
        return made

    def _check_weights(self, name: str) -> None:
        found, known = self._digests.setdefault(name, self.encoders[name].digest()), self.weights.get(name)
        require(
            known is None or found == known,
            f"the encoder {self.encoders[name]} of the condition {name!r} has other weights or another tokenizer "
            f"({found[:8]}) than that of the training data ({(known or '')[:8]}), so that the network would not "
            "understand it; restore its files, or give the revision",
        )

    @functools.cached_property
    def _digests(self) -> dict[str, str]:
        return {}

    def _name(self, name: str) -> str:
        return self.encoders[name].column or name

    def _column(self, name: str, columns: Columns) -> Sequence[Any]:
        wanted = self._name(name)
        require(
            wanted in columns.values,
            f"the condition {name!r} is made from the column {wanted!r}, which the data do not have; "
            f"{nearest(wanted, columns.values)}; captions are text files beside the images, or a column of "
            "metadata.csv or metadata.jsonl",
        )
        return columns.values[wanted]


def shape_of(spec: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a condition of numbers without the batch, by its description."""
    return tuple(n for key, n in spec.items() if key not in FREE)


def described(given: ConditionEncoder | Mapping[str, ConditionEncoder] | None) -> Descriptions | None:
    """The descriptions of a data set, given as encoders by name, or as one of the condition "text"."""
    if not given:
        return None
    return Descriptions(dict(given) if isinstance(given, Mapping) else {TEXT: given})


def _full(name: str, part: str) -> str:
    return f"{name}.{part}" if part else name


def _depth(value: Any) -> int:
    """How deeply lists are nested in a value."""
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list | tuple) else 0
