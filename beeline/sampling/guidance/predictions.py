"""The predictions that guidance combines, those of one field in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import Remembering, unwrapped
from beeline.core.protocols.flows import Recalling, Reference
from beeline.core.types import Cond, Dynamics, leaves, map_cond
from beeline.fields.flow import bind
from beeline.solvers.process import FieldReadout


class Predictions:
    """The strong prediction of one run, and a weak one for every reference.

    With ``together``, predictions of the field itself under conditions of one shape are evaluated as one batch.  Those
    that follow from earlier ones are not evaluated.
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
        self.recalls = [reference.recall() if isinstance(reference, Recalling) else None for reference in references]
        self.joined = [
            joins and r is None and o is field and _stackable(cond, c)
            for o, c, r in zip(others, self.conds[1:], self.recalls, strict=True)
        ]
        self.batches: dict[tuple[int, ...], Dynamics] = {}
        self.rows = min((len(leaf) for _, leaf in leaves(cond) if leaf.ndim), default=0)

    @property
    def strong(self) -> Dynamics:
        """The strong prediction alone."""
        return lambda x, t, *s: self(x, t, *s, which=())[0]

    def __call__(self, x: Tensor, t: Tensor, *s: Tensor, which: Sequence[int] | None = None) -> list[Tensor]:
        """The strong prediction and those of the references with the indices ``which``, by default all."""
        chosen = range(len(self.joined)) if which is None else which
        joined = tuple(k + 1 for k in chosen if self.joined[k])
        found: dict[int, Tensor] = {}
        if joined and len(x) == self.rows:  # not for solvers that are parallel in time
            n = len(joined) + 1
            outputs = self._batch((0, *joined))(*(torch.cat([part] * n) for part in (x, t, *s))).chunk(n)
            found = dict(zip((0, *joined), outputs, strict=True))
        strong = found[0] if found else self.apart[0](x, t, *s)
        recalled = [None if recall is None else recall(strong, x, t) for recall in self.recalls]

        def weak(k: int) -> Tensor:
            known = recalled[k]
            if known is not None:
                return known
            return found[k + 1] if k + 1 in found else self.apart[k + 1](x, t, *s)

        return [strong, *(weak(k) for k in chosen)]

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
