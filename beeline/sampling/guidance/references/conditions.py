"""References under other conditions: some of them null, or with given values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from beeline.core.declared import group_of
from beeline.core.errors import nearest, require
from beeline.core.protocols.flows import Reference
from beeline.core.ranges import dataclass
from beeline.core.types import Cond
from beeline.sampling.guidance.dependence import Containing, needs_evaluation
from beeline.sampling.guidance.guide import Unconditional
from beeline.sampling.guidance.null import null_like
from beeline.sampling.steering.modalities import ModalityDependent


@dataclass(frozen=True)
class Without(Containing):
    """The same field with some of the conditions replaced by their nulls.

    weak = v(x, t, c'),  c'_n = null_n for the names n, c_n for the others
    Several of them give every condition a scale of its own: in Guides the differences to the full condition are added,
    in Nested those between one level and the next.
    Assumes a network that was trained with these conditions dropped alone.
    Source: Brooks et al. 2023, "InstructPix2Pix" (arXiv 2211.09800); Liu et al. 2024, "OmniFlow" (arXiv 2412.01169).

    >>> import torch
    >>> cond = {"text": torch.tensor([1]), "style": torch.tensor([2])}
    >>> Without(("text",), Unconditional({"text": 10}))(None, cond)[1]
    {'text': tensor([10]), 'style': tensor([2])}
    """

    names: tuple[str, ...]  # of conditions, at least one; "text" is also "text.pooled"
    null: Reference = field(default_factory=Unconditional)  # gives the nulls

    def __post_init__(self) -> None:
        names = (self.names,) if isinstance(self.names, str) else tuple(self.names)
        object.__setattr__(self, "names", names)
        require(len(names) > 0, "Without got no names; it replaces conditions by their nulls: give ('text',)")
        needs_evaluation(self.null, "Without")

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        require(
            isinstance(cond, Mapping),
            f"Without({self.names}) got {'no condition' if cond is None else 'a condition without names'}; it replaces "
            "some of several: give cond={'text': ..., 'style': ...}",
        )
        assert isinstance(cond, Mapping)
        known = {*cond, *map(group_of, cond)}
        for name in self.names:
            require(name in known, f"Without got the name {name!r}, which is no condition; {nearest(name, known)}")
        other, null = self.null(field, cond)
        assert isinstance(null, Mapping)
        gone = [name for name in cond if name in self.names or group_of(name) in self.names]
        return other, {**cond, **{name: null[name] for name in gone}}


@dataclass(frozen=True)
class OtherCondition(ModalityDependent):
    """The same field under given conditions, equal for all samples.

    v(x, t, c'),  c'_n = values_n for the names that are given, c_n for the others
    A text among the values is encoded by the modality of a bundle: a negative prompt, or the name of a class.

    >>> import torch
    >>> OtherCondition({"label": 3})(None, {"label": torch.tensor([1, 2])})[1]
    {'label': tensor([3, 3])}
    """

    values: Any  # conditions by name for one sample, or one number

    def for_modality(self, modality: Any) -> OtherCondition:
        """The same with encoded texts."""
        if not isinstance(self.values, Mapping) or not any(isinstance(v, str) for v in self.values.values()):
            return self
        made = modality.condition(dict(self.values), 1)
        assert isinstance(made, Mapping)
        own = {name: leaf[0] for name, leaf in made.items() if {name, group_of(name)} & set(self.values)}
        return OtherCondition(own)

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        require(
            cond is not None,
            f"OtherCondition({self.values}) got cond=None; it replaces values of a condition: pass cond=",
        )
        return field, null_like(self.values, cond)
