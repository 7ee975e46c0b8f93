"""Conditions of stored pairs: every different one is stored once, and a pair holds its number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Cond, leaves, map_cond
from beeline.training.feed.microbatches import rows_from

NAME = "cond"


@dataclass(frozen=True, eq=False)
class Conditions:
    """Different conditions, and which of them every pair has.

    pair i has the condition ``order[p]``, with p entry i mod N of the permutation of epoch i div N of the N entries
    A pair's condition depends on the key and on its number alone.  With ``order`` of the data every datum's condition
    occurs equally often, with that of the different conditions every one of these.

    >>> table = Conditions.of({"label": torch.tensor([3, 3, 5])}, Rng(0))
    >>> table.table["label"], sorted(table.numbers(range(3)).tolist())
    (tensor([3, 5]), [0, 0, 1])
    """

    table: Cond  # [U,...]
    order: Tensor  # [N], numbers of the table
    rng: Rng

    @staticmethod
    def of(cond: Cond, rng: Rng, balanced: bool = False) -> Conditions:
        """The conditions of data [N,...], once for every datum, or ``balanced``: once each."""
        rows = _rows_as_bytes(cond)
        seen: dict[bytes, int] = {}
        numbers = torch.tensor([seen.setdefault(row, len(seen)) for row in rows])
        first = torch.full((len(seen),), len(rows)).scatter_reduce(0, numbers, torch.arange(len(rows)), "amin")
        table = map_cond(lambda leaf: leaf[first.to(leaf.device)].cpu(), cond)
        return Conditions(table, torch.arange(len(seen)) if balanced else numbers, rng)

    def __len__(self) -> int:
        return next(len(leaf) for _, leaf in leaves(self.table))

    def numbers(self, rows: Sequence[int]) -> Tensor:
        """The entries of the table of the pairs ``rows``, which follow each other."""
        return self.order[rows_from(self.rng, len(self.order), rows[0], len(rows))].to(torch.int32)

    def at(self, numbers: Tensor) -> Cond:
        """The conditions of a table's entries."""
        return map_cond(lambda leaf: leaf[numbers.long()], self.table)

    def tensors(self) -> dict[str, Tensor]:
        """The table as named tensors."""
        return {f"{NAME}.{name}" if name else NAME: leaf for name, leaf in leaves(self.table)}

    def digest(self) -> str:
        """A hash of the table and of the order."""
        total = hashlib.sha256()
        for row in _rows_as_bytes(self.table):
            total.update(row)
        total.update(self.order.numpy().tobytes())
        return total.hexdigest()


def tree_of(tensors: Mapping[str, Tensor]) -> Cond:
    """The condition tree of named tensors, as ``Conditions.tensors`` names them."""
    tree: Any = tensors.get(NAME)
    for name, leaf in tensors.items():
        first, *rest = name.split(".")
        if first != NAME or not rest:
            continue
        tree = {} if tree is None else tree
        inner = tree
        for part in rest[:-1]:
            inner = inner.setdefault(part, {})
        inner[rest[-1]] = leaf
    return tree  # type: ignore[no-any-return]


def _rows_as_bytes(cond: Cond) -> list[bytes]:
    """The bytes of all leaves of every row."""
    parts = [leaf.detach().cpu().contiguous() for _, leaf in leaves(cond)]
    sizes = {len(part) for part in parts}
    require(
        len(sizes) == 1, f"the conditions have {sorted(sizes)} rows; every pair has one of each: give equal numbers"
    )
    raw = [part.reshape(len(part), -1).view(torch.uint8).numpy() for part in parts]
    return [b"".join(part[i].tobytes() for part in raw) for i in range(sizes.pop())]
