"""Scenes whose distribution is known, with their exact velocity, 20 Heun steps: an object is to be in a box of 4 x 4
pixels. Up to t = 0.5 the velocity in the box is that of scenes with an object, elsewhere that of scenes without one;
then that of scenes with an object. The figure is the share of samples with the object inside of the box. The control
has the box at another corner. The branch of the box sees the whole state: patches of a size of their own, as tokens
beside those of the picture, are not made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.sampling.guidance.composition.merged import Merged
from beeline.sampling.guidance.references.conditions import OtherCondition
from benchmarks.claims import scenes
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "GrounDiT: box branches"
CLAIM = "A branch for every box, transplanted into the picture at early times, places objects without training."
COUNT = 192


def box(row: int, column: int) -> Tensor:
    made = torch.zeros(8, 8)
    made[row : row + 4, column : column + 4] = 1
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    x0 = rng.fork("start").normal(torch.empty(COUNT, 1, 8, 8))
    inside = [scenes.index(b, r, c) for b in range(4) for r in range(4, 7) for c in range(1, 4)]

    def share(guidance: Any) -> float:
        made = bl.Sampler(20, guidance=guidance)(scenes.flow(), x0, torch.ones(COUNT))
        return float(torch.isin(scenes.nearest(made), torch.tensor(inside)).float().mean())

    def boxed(where: Tensor, until: float = 0.5) -> Any:
        return Merged((OtherCondition(0.0),), (1 - where,), window=(0.0, until))

    here, elsewhere = box(4, 1), box(0, 4)
    plain, control = share(bl.guidance.Plain()), share(boxed(elsewhere))
    trivial = "box elsewhere"
    return [
        finding("share of objects in the box: branches up to t = 0.5 (figure) against none", plain, share(boxed(here)),
                control, trivial, "higher"),
        finding("share of objects in the box: branches up to t = 0.8 (figure) against t = 0.5", share(boxed(here)),
                share(boxed(here, 0.8)), control, trivial, "higher"),
        finding("share of objects in the box: branches up to t = 0.5 (figure) against 0.9", 0.9, share(boxed(here)),
                control, trivial, "higher"),
    ]  # fmt: skip
