"""Regression on what a trained flow answers: to keep its answers, and to replace those for some classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import traits_of
from beeline.core.errors import nearest, require
from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.objectives import ObjectiveSpec, heldout_of
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss
from beeline.fields.flow import evaluate_field
from beeline.objectives.matching import FlowMatching, ObjectiveBase, ObjectiveWrapper


def classes_of(field: Any, name: str) -> int:
    """The number of classes of the condition ``name`` of a network; ValueError where it has no such condition."""
    nulls = traits_of(field).nulls or {}
    count = nulls.get(name)
    require(
        isinstance(count, int),
        f"the condition {name!r} was to be a class, and the network has the conditions {sorted(nulls)} with the nulls "
        f"{nulls}; {nearest(name, nulls) if nulls else 'use a network that was trained with labels'}",
    )
    assert isinstance(count, int)
    return count


@dataclass(frozen=True)
class Responses(ObjectiveBase):
    """The velocity of a trained flow is kept for every condition, or becomes the one for another condition.

    E over x_t of the data, t, c of |v(x_t, t, c) - v_m - push (v_m - v_base(x_t, t, c))|^2,  v_m = v_base(x_t, t, m(c))
    m maps classes to classes: those that ``become`` does not name stay.  The conditions are those of the data.
    Source: Li and Hoiem 2016, "Learning without Forgetting" (arXiv 1606.09282), without ``become``; Kumari et al. 2023,
    "Ablating Concepts in Text-to-Image Diffusion Models" (arXiv 2303.13516), with it; Gandikota et al. 2023, "Erasing
    Concepts from Diffusion Models" (arXiv 2303.07345), towards the null with ``push``.

    >>> Responses(base=None, become={3: 5}).renamed({"label": torch.tensor([3, 4])})
    {'label': tensor([5, 4])}
    """

    base: Any  # the frozen field
    objective: FlowMatching = field(default_factory=FlowMatching)  # its path, times and distance
    become: Mapping[int, int] = field(default_factory=dict)  # class -> class, or null, whose velocity it gets
    push: NonNegative = 0.0  # how far beyond it, away from the velocity of the class itself
    name: str = "label"  # of the condition that holds the class

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(self.objective.spec, heldout=self.heldout, baselines=False)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        example = self.objective.examples(batch, rng, field)
        with torch.no_grad():
            wanted = evaluate_field(self.base, example.x, example.t, self.renamed(example.batch.cond))
            if self.push:
                own = evaluate_field(self.base, example.x, example.t, example.batch.cond)
                wanted = wanted + self.push * (wanted - own)
        predicted = evaluate_field(field, example.x, example.t, example.batch.cond)
        return self.objective.compare(predicted, example._replace(v=wanted.to(example.v)))

    def renamed(self, cond: Cond) -> Cond:
        """The conditions under which the base answers."""
        if not self.become:
            return cond
        given: Any = cond if isinstance(cond, Mapping) else {self.name: cond}
        label: Tensor | None = given.get(self.name)
        require(
            isinstance(label, Tensor),
            f"classes {sorted(self.become)} of the condition {self.name!r} were to be replaced, and the data have "
            f"{sorted(k for k, v in given.items() if v is not None)}; use data with labels",
        )
        assert label is not None
        made = label
        for old, new in self.become.items():
            made = torch.where(label == old, torch.full_like(label, new), made)
        return {**given, self.name: made} if isinstance(cond, Mapping) else made


@dataclass(frozen=True)
class Kept(ObjectiveWrapper):
    """An objective on new data, with the answers of the base to other conditions on the same states.

    loss + strength E |v(x_t, t, c_old) - v_base(x_t, t, c_old)|^2,  c_old drawn from all classes and the null
    x_t is from the new data: what the base does elsewhere is not kept (``Adaptation.prior`` has its own samples).  A
    network without classes has no other conditions, so that its answers to the same ones are kept.
    Source: Li and Hoiem 2016, "Learning without Forgetting" (arXiv 1606.09282).

    >>> Kept(base=None).strength
    1.0
    """

    base: Any  # the frozen field
    objective: FlowMatching = field(default_factory=FlowMatching)
    strength: NonNegative = 1.0
    name: str = "label"  # of the condition that holds the class

    def heldout(self, times: TimeSampler) -> Any:
        return heldout_of(self.objective, times)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        loss: Loss = self.objective(field, batch, rng)
        if self.strength == 0:
            return loss
        cond = drawn_classes(self.base, len(batch.x1), batch.x1, rng.fork("old"), self.name, null=True)
        answers = Responses(self.base, replace(self.objective, drop=None), name=self.name)
        kept = answers(field, replace(batch, cond=batch.cond if cond is None else cond), rng)
        terms = {**loss.terms, "kept": kept.value.detach()}
        return loss._replace(value=loss.value + self.strength * kept.value, terms=terms)


@dataclass(frozen=True)
class Taught(ObjectiveWrapper):
    """An objective on data, with the answers of the base on the same states.

    loss + strength E |v(x_t, t, c) - v_base(x_t, t, c)|^2
    Both errors are those of one evaluation.
    Source: Kim et al. 2023, BK-SDM (arXiv 2305.15798), without its terms of features.

    >>> Taught(base=None).strength
    1.0
    """

    base: Any  # the frozen field
    objective: FlowMatching = field(default_factory=FlowMatching)
    strength: NonNegative = 1.0

    def heldout(self, times: TimeSampler) -> Any:
        return heldout_of(self.objective, times)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        example = self.objective.examples(batch, rng, field)
        predicted = evaluate_field(field, example.x, example.t, example.batch.cond)
        with torch.no_grad():
            wanted = evaluate_field(self.base, example.x, example.t, example.batch.cond)
        loss = self.objective.compare(predicted, example)
        taught = self.objective.compare(predicted, example._replace(v=wanted.to(example.v)))
        terms = {**loss.terms, "taught": taught.value.detach()}
        return loss._replace(value=loss.value + self.strength * taught.value, terms=terms)


def drawn_classes(field: Any, n: int, like: Tensor, rng: Rng, name: str = "label", null: bool = False) -> Cond:
    """``n`` classes of a network, drawn evenly and on the device of ``like``; None where the class is no condition.

    With ``null`` half of them are the null.
    """
    nulls = traits_of(field).nulls or {}
    if set(nulls) != {name} or not isinstance(nulls[name], int):
        return None
    count = classes_of(field, name)
    label = rng.fork("class").integers(count, n).to(like.device)
    if null:
        label = torch.where(rng.fork("null").uniform(n, like) < 0.5, torch.full_like(label, count), label)
    return {name: label}
