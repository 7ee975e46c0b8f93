"""The predictions that guidance combines, those of one field in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import Remembering, unwrapped
from beeline.core.protocols.flows import Reference
from beeline.core.types import Cond, Dynamics, leaves, map_cond
from beeline.fields.flow import bind
from beeline.solvers.process import FieldReadout


class Predictions:
    """The strong prediction of one run, and a weak one for every reference.

    With ``together``, predictions of the field itself under conditions of one shape are evaluated as one batch.
    """

    def __init__(self, field: Any, cond: Cond, references: Sequence[Reference], together: bool = True):
        inner = field.field if isinstance(field, FieldReadout) else field
        weak = [reference(inner, cond) for reference in references]
        others = [field.with_field(other) if isinstance(field, FieldReadout) else other for other, _ in weak]
        self.field = field
        self.conds = [cond, *(null for _, null in weak)]
        self.apart: list[Dynamics] = [
            bind(other, c, repeat=True) for other, c in zip([field, *others], self.conds, strict=True)
        ]
        apart = isinstance(unwrapped(field), Remembering)  # each prediction has its own memory
        joins = together and not apart
        self.joined = [
            joins and o is field and _stackable(cond, c) for o, c in zip(others, self.conds[1:], strict=True)
        ]
        self.batches: dict[tuple[int, ...], Dynamics] = {}
        self.rows = min((len(leaf) for _, leaf in leaves(cond) if leaf.ndim), default=0)

    @property
    def strong(self) -> Dynamics:
        """The strong prediction alone."""
        return self.apart[0]

    def __call__(self, x: Tensor, t: Tensor, *s: Tensor, which: Sequence[int] | None = None) -> list[Tensor]:
        """The strong prediction and those of the references with the indices ``which``, by default all."""
        chosen = range(len(self.joined)) if which is None else which
        joined = tuple(k + 1 for k in chosen if self.joined[k])
        found: dict[int, Tensor] = {}
        if joined and len(x) == self.rows:  # not for solvers that are parallel in time
            n = len(joined) + 1
            outputs = self._batch((0, *joined))(*(torch.cat([part] * n) for part in (x, t, *s))).chunk(n)
            found = dict(zip((0, *joined), outputs, strict=True))
        return [found[k] if k in found else self.apart[k](x, t, *s) for k in (0, *(k + 1 for k in chosen))]

    def _batch(self, members: tuple[int, ...]) -> Dynamics:
        """The dynamics of a batch with the conditions of several predictions."""
        if members not in self.batches:
            cond = self.conds[members[0]]
            for k in members[1:]:
                cond = map_cond(lambda a, b: torch.cat([a, b]), cond, self.conds[k])
            self.batches[members] = bind(self.field, cond)
        return self.batches[members]


def _stackable(cond: Cond, null: Cond) -> bool:
    """Whether two conditions can form one batch: the same leaves with the same shapes."""
    shapes = [{name: leaf.shape[1:] for name, leaf in leaves(tree)} for tree in (cond, null)]
    return cond is not None and null is not None and shapes[0] == shapes[1]
