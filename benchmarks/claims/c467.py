"""Scenes of 8 x 8 pixels with four views: the picture, background, foreground and opacity of the object. An MLP of 192
channels takes the views with a time for each, and is trained for 900 steps of 128 scenes, with and without the error of
the picture that predicted layers make (strength 1). Layers are sampled given a new picture, 10 Heun steps. Errors are
root mean square differences of pixels. All layers are known in training; pairs without known layers, shadows and
reflections are not measured."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.objectives.editing.views import Recomposed, recomposed
from beeline.sampling.editing.trained import ResampledViews
from benchmarks.claims import editors
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "Layer decomposition with recomposition"
CLAIM = "A recomposition loss makes the layers of a picture fit it; its object is removed by taking the background."


def measure(rng: bl.Rng) -> list[Finding]:
    x = editors.layers(editors.data(rng)[1])
    test = editors.layers(editors.data(rng.fork("test"), 256)[1])

    def sampled(strength: float, steps: int = editors.STEPS) -> Any:
        net = editors.view_field(rng, 4)
        flow = bl.Flow(learn(net, Recomposed(strength), bl.Batch(x), rng, steps, 128))
        return ResampledViews((0,))(flow, test, None, None, bl.Sampler(10), rng.fork("edit"))

    with_loss, without, new = sampled(1.0), sampled(0.0), sampled(0.0, 1)

    def fit(made: Any) -> float:
        return editors.error(recomposed(made), test[:, 0])

    def background(made: Any) -> float:
        return editors.error(made[:, 1], test[:, 1])

    return [
        finding("error of the recomposed picture: with the loss (figure) against without", fit(without),
                fit(with_loss), fit(new)),
        finding("error of the background: with the loss (figure) against without", background(without),
                background(with_loss), background(new)),
        finding("error of the background: with the loss (figure) against a third of the object that is removed",
                editors.error(test[:, 0], test[:, 1]) / 3, background(with_loss), background(new)),
    ]  # fmt: skip
