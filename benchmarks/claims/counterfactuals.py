"""The exact problem of the claims about edits: labelled mixtures whose counterfactuals are known."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

import beeline as bl
from benchmarks.editing_parts.exact import Exact, distance

EXACT = Exact()
STILL = "no edit at all"
NEW = "new data of the label"


class Case(NamedTuple):
    """Data, their labels, other ones, and their exact counterfactuals."""

    x: Tensor
    old: Tensor
    new: Tensor
    exact: Tensor


def case(rng: bl.Rng, n: int = 512, size: int = 60) -> Case:
    """A case of ``n`` data; the counterfactuals take ``size`` steps of RK4 in either direction."""
    batch = EXACT.data(n, rng.fork("data"))
    old = batch.cond["label"]
    new = (old + 1 + rng.fork("labels").integers(EXACT.labels - 1, n).to(old)) % EXACT.labels
    return Case(batch.x1, old, new, EXACT.counterfactual(batch.x1, old, new, size))


def made(edit: bl.core.protocols.editing.Edit, one: Case, sampler: bl.Sampler, rng: bl.Rng) -> Tensor:
    return edit(EXACT.flow, one.x, one.old, one.new, sampler, rng)


def gap(y: Tensor, one: Case) -> float:
    """Mean distance to the exact counterfactuals."""
    return float(distance(y, one.exact).mean())


def moved(y: Tensor, one: Case) -> float:
    """Mean distance to the data."""
    return float(distance(y, one.x).mean())


def unlikely(y: Tensor, one: Case) -> float:
    """Share of the data whose new label the exact classifier does not find."""
    return float((EXACT.likelihood(y, one.new) < 0.5).double().mean())


def new_data(one: Case, rng: bl.Rng) -> Tensor:
    """Samples of the new labels, which have nothing to do with the data."""
    return bl.Sampler(20)(EXACT.flow, rng.fork("new").normal(one.x), one.new)
