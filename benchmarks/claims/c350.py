"""Scenes of 8 x 8 pixels with three views: the picture, its background, and the opacity of the object. An MLP of 192
channels takes the views with a time for each, and is trained for 450 steps of 128 scenes; times are independent, and
views are given with probability 0.3. Specialised networks of the same size and number of steps learn one task each: the
layers of a picture, or the picture of its layers. Errors are root mean square differences of pixels of the views that
are not given, on new scenes, 10 Heun steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.core.rng import Rng
from beeline.objectives.matching import FlowMatching
from beeline.sampling.editing.trained import ResampledViews
from beeline.times.composed import Frames
from beeline.times.samplers import Uniform
from benchmarks.claims import editors
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "One diffusion for all views"
CLAIM = "One network with a time for every view does the tasks of specialised ones, in every direction."
VIEWS, STEPS = (0, 1, 3), 450


class Fixed:
    """One time for all views but the given ones, whose time is 1."""

    def __init__(self, given: tuple[int, ...]):
        self.given = given

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        t = Uniform()(n, like, rng)[:, None].repeat(1, len(VIEWS))
        t[:, list(self.given)] = 1
        return t

    def log_prob(self, t: Tensor) -> Tensor:
        return torch.zeros(len(t))


def measure(rng: bl.Rng) -> list[Finding]:
    x = editors.layers(editors.data(rng)[1])[:, list(VIEWS)]
    test = editors.layers(editors.data(rng.fork("test"), 256)[1])[:, list(VIEWS)]

    def trained(times: Any, steps: int = STEPS) -> Any:
        net = editors.view_field(rng, len(VIEWS))
        return bl.Flow(learn(net, FlowMatching(times=times), bl.Batch(x), rng, steps, 128))

    def error(flow: Any, given: tuple[int, ...]) -> float:
        made = ResampledViews(given)(flow, test, None, None, bl.Sampler(10), rng.fork("edit"))
        rest = [k for k in range(len(VIEWS)) if k not in given]
        return editors.error(made[:, rest], test[:, rest])

    one = trained(Frames(Uniform(), len(VIEWS), 0.3))
    layers, picture = trained(Fixed((0,))), trained(Fixed((1, 2)))
    new = trained(Frames(Uniform(), len(VIEWS), 0.3), 1)
    return [
        finding("error of layers from a picture: one network (figure) against 1.25 of the specialised one",
                1.25 * error(layers, (0,)), error(one, (0,)), error(new, (0,))),
        finding("error of a picture from its layers: one network (figure) against 1.25 of the specialised one",
                1.25 * error(picture, (1, 2)), error(one, (1, 2)), error(new, (1, 2))),
        finding("error of layers from a picture: one network (figure) against the half of their mean layers",
                0.5 * editors.error(x[:, 1:].mean(0), test[:, 1:]), error(one, (0,)), error(new, (0,))),
    ]  # fmt: skip
