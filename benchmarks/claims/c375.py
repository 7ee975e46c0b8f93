"""Scenes whose distribution is known, with their exact velocity, 20 Heun steps in each of two parts. The object is
moved, or removed, by layers that are denoised in several layouts. The figure is the share of scenes whose nearest mean
is the wanted one. The baseline pastes the object at its new place and samples from t = 0.5 (SDEdit); for removal it is
inversion and sampling without an object. The error of the second row is the root mean square difference of pixels that
are neither under the old nor the new place. The last row has one layout, the final one, and that of the datum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.sampling.editing.layers.operations import Clone, Move, Remove
from beeline.sampling.editing.layers.scene import LayeredScene
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.editing.resampled import InvertAndSample, SDEdit
from benchmarks.claims import scenes
from benchmarks.claims.c486 import COUNT, HOLE, NEW, PLACE, error, given
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Layered scene diffusion"
CLAIM = "Layers denoised jointly in several layouts move, copy and remove objects without training."


def measure(rng: bl.Rng) -> list[Finding]:
    x, one, none = given(rng), torch.ones(COUNT), torch.zeros(COUNT)
    flow, sampler, region = scenes.flow(), bl.Sampler(20), GivenRegion(HOLE)
    wanted = torch.tensor([scenes.index(b % 4, *NEW) for b in range(COUNT)])
    background = torch.arange(COUNT) % 4

    def run(edit: Any, new: Tensor, start: Tensor = x) -> Tensor:
        return edit(flow, start, one, new, sampler, rng.fork("edit"))

    def right(made: Tensor, index: Tensor) -> float:
        return float((scenes.nearest(made) == index).float().mean())

    pasted = run(SDEdit(0.5), one, x + PLACE * (2.0 - x))
    moved = run(LayeredScene(region, (Move(3, 2),)), one)
    removed, inverted = run(LayeredScene(region, (Remove(),)), none), run(InvertAndSample(), none)
    outside = 1 - HOLE - PLACE
    few = run(LayeredScene(region, (Move(3, 2),), views=1, spread=1), one)
    copied = run(LayeredScene(region, (Clone(3, 2),)), one)
    where = HOLE + PLACE
    twice = x + where * (2.0 - x)
    trivial = "scene as it is"
    return [
        finding("share of moves that are right: layers (figure) against pasting and SDEdit", right(pasted, wanted),
                right(moved, wanted), right(x, wanted), trivial, "higher"),
        finding("change outside of a move: layers (figure) against pasting and SDEdit", error(pasted, x, outside),
                error(moved, x, outside), error(x.roll(1, 0), x, outside), "another scene"),
        finding("share of removals that are right: layers (figure) against inversion", right(inverted, background),
                right(removed, background), right(x, background), trivial, "higher"),
        finding("error of two copies, which no scene of the data has: layers (figure) against pasting and SDEdit",
                error(run(SDEdit(0.5), one, twice), twice, where), error(copied, twice, where), error(x, twice, where),
                trivial),
        finding("share of moves that are right: two random layouts up to 2 pixels (figure) against one of 1 pixel",
                right(few, wanted), right(moved, wanted), right(x, wanted), trivial, "higher"),
    ]  # fmt: skip
