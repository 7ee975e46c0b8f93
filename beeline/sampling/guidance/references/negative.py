"""Null conditions that are part of the condition, as a negative prompt is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.types import Cond


@dataclass(frozen=True)
class Negative:
    """The weak prediction under the condition's own negative part, one for each sample.

    weak = v(x, t, cond["negative"])
    As the null of a flow it states that any condition can be the null one, as with prompts.
    Assumes a network that ignores the leaf "negative".
    Source: Ho and Salimans 2022 (arXiv 2207.12598), with a condition in place of the null.

    >>> Negative()("field", {"text": 1, "negative": {"text": 0}})[1]["text"]
    0
    """

    name: str = "negative"  # the leaf that holds the negative condition

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        require(
            isinstance(cond, Mapping) and isinstance(cond.get(self.name), Mapping),
            f"guidance got {'no condition' if cond is None else f'a condition without {self.name!r}'}; it needs a "
            f'prompt and a negative one: give prompt="...", negative_prompt="", or embeddings as cond[{self.name!r}]',
        )
        assert isinstance(cond, Mapping)
        weak = cond[self.name]
        assert isinstance(weak, Mapping)
        return field, {**weak, self.name: weak}  # the same tree as the strong condition
