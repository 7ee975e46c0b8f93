"""Regression without times: heads on features, inverse dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from beeline.core.errors import require
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.matching import ObjectiveBase


@dataclass(frozen=True)
class Regression(ObjectiveBase):
    """Regression of a target on an input, for networks that are no fields.

    E distance(f(input), x1),  input = cond[name]
    Assumes a network of one argument, the condition ``name`` [B,...], and targets x1 of the shape of its output.

    >>> batch = Batch(torch.ones(4, 2), cond={"input": torch.zeros(4, 3)})
    >>> Regression()(lambda h: h[:, :2], batch, Rng(0)).value
    tensor(1.)
    """

    name: str = "input"  # the condition that holds the input
    distance: Distance = squared

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, baselines=False, static_graph=True)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        given = batch.cond if isinstance(batch.cond, Mapping) else {}
        require(
            self.name in given,
            f"Regression got data with the conditions {sorted(given)}; its input is the condition {self.name!r}: give "
            f"Batch(target, cond={{{self.name!r}: input}})",
        )
        made = field(given[self.name])
        require(
            made.shape == batch.x1.shape,
            f"the network returned shape {tuple(made.shape)} for targets of shape {tuple(batch.x1.shape)}; a "
            "prediction has the shape of its target: check the network's output",
        )
        each = self.distance(made, batch.x1)
        per_sample = each if batch.weight is None else each * batch.weight
        value = per_sample.mean()
        terms = {"loss": value.detach(), "error": each.detach().mean()}
        return Loss(value, terms, per_sample.detach(), torch.zeros_like(each.detach()))
