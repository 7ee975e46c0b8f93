"""The ring with overlapping classes and a trained teacher: W2 distance to exactly guided samples of scale two after the
first stage, in which a student with the scale as an input learns the guided velocities of scales from one to three, and
after the second for scale two, in which the steps of the guided teacher are halved until one is left."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.maps.presets import Progressive
from beeline.objectives.guided import GuidanceDistilled
from beeline.sampling.guidance.temperature import Temperature
from benchmarks.claims.c142 import LABEL, NULL, SCALE, guided, trained
from benchmarks.claims.toys import CLASSES, finding, learn, network, noise, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Distillation of guidance, and of its steps"
CLAIM = (
    "One network with the guidance scale as an input matches the guided combination at half the evaluations; "
    "progressive distillation then leaves few steps."
)
STEPS = 8


def measure(rng: bl.Rng) -> list[Finding]:
    data, plain = trained(rng)
    student = lambda: network(rng, conditions={**LABEL, "beta": {"size": 1}})  # noqa: E731
    objective = GuidanceDistilled(bl.Flow(plain, null={"label": NULL}), scales=(1.0, 3.0))
    net, first = learn(student(), objective, data, rng.fork("distil"), steps=900), student()
    x0 = noise(rng)
    cond = {"label": torch.arange(len(x0)) % 8}
    wanted = guided(CLASSES.field(), x0, cond, 60)
    made, raw = (sample(f, x0, STEPS, cond, guidance=Temperature(SCALE)) for f in (net, first))
    half, same = (guided(plain, x0, cond, n) for n in (STEPS // 2, STEPS))
    method, teacher = Progressive(guidance=bl.CFG(SCALE)), bl.Flow(plain, null={"label": NULL})
    with rng.fork("map").ambient():
        nets = method.networks(teacher)
    few = learn(nets["student"], method.objective(teacher), data, rng.fork("halved"), steps=800)
    start = method.networks(teacher)["student"]
    two, untrained = (sample(f, x0, 2, cond, solver=bl.solvers.FlowMapStep()) for f in (few, start))
    unguided = sample(plain, x0, STEPS, cond)
    return [
        finding("W2, 8 evaluations: student (figure) against guidance in 4 steps", w2(half, wanted), w2(made, wanted),
                w2(raw, wanted)),
        finding("W2, 8 steps: student (figure, 8 evaluations) against guidance (16), 5% worse", 1.05 * w2(same, wanted),
                w2(made, wanted), w2(raw, wanted)),
        finding("W2, second stage: 2 evaluations (figure) against guidance in 2 steps (4 evaluations)",
                w2(guided(plain, x0, cond, 2), wanted), w2(two, wanted), w2(untrained, wanted), "before the training"),
        finding("error to the guided teacher's samples: student (figure) against the teacher without guidance",
                rmse(unguided, same), rmse(made, same), rmse(raw, same)),
    ]  # fmt: skip
