"""Scenes of 8 x 8 pixels; the edit replaces the left half by that of a reference, without a mask at inference. An MLP
of 192 channels is trained for 900 steps on pairs that are made so, beside an inversion. Errors are root mean square
differences of pixels, in the part that is to change and in the rest, on new scenes and references, 10 Heun steps. The
decoupled attention of the source is not built: the reference is concatenated. Its triplets by inpainting are not used:
the pairs are exact."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.objectives.editing.pairs import Inverted, Pasted
from beeline.sampling.editing.trained import TrainedEditor
from benchmarks.claims import c140, editors
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FreeEdit: edits by a reference"
CLAIM = "A reference picture as a condition tells what an edit without a mask has to make, and the rest is kept."
LEFT = (torch.arange(8) < 4).float().expand(8, 8)
OPERATIONS = (Pasted(((1.0,) * 4 + (0.0,) * 4,)), Inverted())


def measure(rng: bl.Rng) -> list[Finding]:
    flow = c140.trained(rng, 0.1, OPERATIONS)
    x, _ = editors.data(rng.fork("test"), 256)
    reference, _ = editors.data(rng.fork("reference"), 256)
    wanted = OPERATIONS[0](x, reference)

    def edit(shown: torch.Tensor | None) -> torch.Tensor:
        return TrainedEditor(0, shown)(flow, x, None, None, bl.Sampler(10), rng.fork("edit"))

    def error(made: torch.Tensor, where: torch.Tensor, to: torch.Tensor = wanted) -> float:
        return editors.error(made[..., where > 0], to[..., where > 0])

    made, blank, other = edit(reference), edit(None), edit(reference.roll(1, 0))
    trivial = "another reference"
    return [
        finding("error of the part that changes: with the reference (figure) against a blank one", error(blank, LEFT),
                error(made, LEFT), error(other, LEFT), trivial),
        finding("error of the part that changes: with the reference (figure) against a third of no edit",
                error(x, LEFT) / 3, error(made, LEFT), error(other, LEFT), trivial),
        finding("change of the rest: the editor (figure) against a fifth of that of the part", error(made, LEFT, x) / 5,
                error(made, 1 - LEFT), error(reference, 1 - LEFT), "the reference itself"),
    ]  # fmt: skip
