"""Scenes whose distribution is known, with their exact velocity, 20 Heun steps. The object of a scene is moved, and
removed, by layers before a background that is sampled given the rest. The error is the root mean square difference of
the pixels under the old and the new place to the mean of the wanted scene; the noise of a scene has the deviation 0.15.
Removal is compared with inversion and sampling without an object. The control leaves the scene as it is. The last rows
fill the hole by attention of a small transformer trained for 500 steps, with and without the keys of the hole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.dit import DiT
from beeline.sampling.editing.keeping import Within
from beeline.sampling.editing.layers.layered import Layered
from beeline.sampling.editing.layers.masked_keys import MaskedKeys
from beeline.sampling.editing.layers.operations import Move, Remove
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.editing.resampled import InvertAndSample, SDEdit
from beeline.sampling.guidance.references.conditions import OtherCondition
from benchmarks.claims import scenes
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "DesignEdit: layers and key-masked attention"
CLAIM = "Inversion, layers before a filled background and pasting move and remove objects without training."
COUNT, OLD, NEW = 24, (1, 2), (4, 4)
HOLE, PLACE = scenes.mask(*OLD), scenes.mask(*NEW)


def given(rng: bl.Rng) -> Tensor:
    x = torch.stack([scenes.scene(b % 4, *OLD) for b in range(COUNT)])
    return x + scenes.STD * rng.fork("given").normal(x)


def error(made: Tensor, wanted: Tensor, where: Tensor) -> float:
    return float((made - wanted)[..., where > 0].square().mean().sqrt())


def measure(rng: bl.Rng) -> list[Finding]:
    x, one, none = given(rng), torch.ones(COUNT), torch.zeros(COUNT)
    empty = torch.stack([scenes.scene(b % 4) for b in range(COUNT)])
    moved = torch.stack([scenes.scene(b % 4, *NEW) for b in range(COUNT)])
    flow, sampler, region = scenes.flow(), bl.Sampler(20), GivenRegion(HOLE)

    def run(edit: Any, new: Tensor, field: Any = flow) -> Tensor:
        return edit(field, x, one, new, sampler, rng.fork("edit"))

    move = run(Layered(region, (Move(3, 2),), background=OtherCondition(0.0)), one)
    pasted = x + PLACE * (2.0 - x)
    again = SDEdit(0.5)(flow, pasted, one, one, sampler, rng.fork("edit"))
    gone = run(Layered(region, (Remove(),)), none)
    inverted = run(Within(InvertAndSample(), region), none)
    both = HOLE + PLACE
    outside = 1 - torch.nn.functional.max_pool2d(both[None], 3, 1, 1)[0]
    batch = scenes_batch(rng)
    with rng.fork("network").ambient():
        net = bl.Network(DiT((1, 8, 8), width=32, depth=2, heads=2, conditions={"label": {"classes": 2}}))
    field = bl.Flow(learn(net, bl.objectives.FlowMatching(), batch, rng, 500, 64))

    def filled(keys: bool) -> float:
        label = [{"label": v.long()} for v in (one, none)]
        edit: Any = MaskedKeys(region) if keys else Within(InvertAndSample(), region)
        return error(edit(field, x, *label, sampler, rng.fork("edit")), empty, HOLE)

    trivial = "scene as it is"
    return [
        finding("error of a move: layers (figure) against a pasted object and SDEdit", error(again, moved, both),
                error(move, moved, both), error(x, moved, both), trivial),
        finding("change outside of a move: layers (figure) against SDEdit", error(again, x, outside),
                error(move, x, outside), error(empty.roll(1, 0), x, outside), "another background"),
        finding("error of a removal: layers (figure) against inversion inside the mask", error(inverted, empty, HOLE),
                error(gone, empty, HOLE), error(x, empty, HOLE), trivial),
        finding("error of a removal by a transformer: masked keys and noise (figure) against inversion",
                filled(False), filled(True), error(x, empty, HOLE), trivial),
    ]  # fmt: skip


def scenes_batch(rng: bl.Rng, n: int = 4000) -> bl.Batch:
    """Scenes of which half have an object, with the label."""
    k = rng.fork("scenes").integers(len(scenes.FULL), n)
    full = torch.arange(n) % 2
    x = torch.where(full.view(-1, 1, 1, 1) == 1, scenes.FULL[k], scenes.EMPTY[k % 4])
    return bl.Batch(x + scenes.STD * rng.fork("noise").normal(x), cond={"label": full})
