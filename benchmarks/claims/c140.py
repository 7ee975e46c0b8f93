"""Scenes of 8 x 8 pixels with three known operations (inversion, a shift by 2 pixels, a mirror image) as instructions.
MLPs of 192 channels are trained for 350 steps: on edits alone, on generation alone, and jointly with a blank source in
30 % of the data. Errors are root mean square differences of pixels to the result of the operation on new scenes, 10
Heun steps. For generation it is the distance to the nearest scene. Instructions in words and pictures, and new tasks
without training, are not measured."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.mlp import MLP
from beeline.objectives.editing.instructed import Instructed
from beeline.objectives.editing.pairs import Inverted, Mirrored, Shifted
from beeline.objectives.matching import FlowMatching
from beeline.sampling.editing.trained import TrainedEditor
from benchmarks.claims import editors, scenes
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "MIGE: one network that generates and edits"
CLAIM = "Joint training with a blank canvas improves both generation and editing by instructions."
OPERATIONS = (Inverted(), Shifted(right=2), Mirrored())


def trained(rng: bl.Rng, blank: float, operations: Any = OPERATIONS, steps: int = editors.STEPS) -> Any:
    """The flow of an editor; all of them have the same initial weights and batches."""
    x, _ = editors.data(rng)
    objective = Instructed(operations, blank, FlowMatching())
    with rng.fork("network").ambient():
        inner = bl.Network(MLP(shape=(1, 8, 8), width=editors.WIDTH, depth=3))
    net = objective.wrap(inner, bl.Batch(x[:4]), rng.fork("network"))
    return bl.Flow(learn(net, objective, bl.Batch(x), rng, steps, 128))


def edit_error(flow: Any, rng: bl.Rng, operations: Any = OPERATIONS, reference: Any = None) -> float:
    x, _ = editors.data(rng.fork("test"), 128)
    errors = []
    for k, operation in enumerate(operations):
        made = TrainedEditor(k, reference)(flow, x, None, None, bl.Sampler(10), rng.fork("edit", k))
        errors.append(editors.error(made, operation(x, x if reference is None else reference)))
    return sum(errors) / len(errors)


def distance(flow: Any, rng: bl.Rng) -> float:
    """The root mean square distance of generated scenes to the nearest mean."""
    made = bl.Sampler(10)(flow, rng.fork("start").normal(torch.empty(256, 1, 8, 8)))
    return float((torch.cdist(made.flatten(1), scenes.FULL.flatten(1)).amin(1).square().mean() / 64).sqrt())


def measure(rng: bl.Rng) -> list[Finding]:
    joint, edits, alone = (trained(rng, blank, steps=350) for blank in (0.3, 0.0, 1.0))
    x, _ = editors.data(rng.fork("test"), 128)
    change = sum(editors.error(x, operation(x, x)) for operation in OPERATIONS) / len(OPERATIONS)
    new = trained(rng, 0.3, steps=1)
    return [
        finding("error of edits: joint training (figure) against edits alone", edit_error(edits, rng),
                edit_error(joint, rng), edit_error(new, rng)),
        finding("distance of generated scenes: joint training (figure) against generation alone", distance(alone, rng),
                distance(joint, rng), distance(new, rng)),
        finding("error of edits: joint training (figure) against half of the change of an edit",
                0.5 * change, edit_error(joint, rng), edit_error(new, rng)),
    ]  # fmt: skip
