"""The ring: equally many steps of MeanFlow on the pairs of a trained teacher and on the data. Error of one step to
the exact ends, and W2 distance. Pairs are those of 24 steps of Heun's method, without the tenth with the greatest
distances."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.core.types import take
from beeline.distillation.maps.others import RectifiedMeanFlow
from beeline.distillation.maps.presets import MeanFlow
from beeline.distillation.store.filters import Nearest
from beeline.objectives.maps.presets import MeanFlow as Objective
from beeline.objectives.maps.velocities import OfPair
from benchmarks.claims.maps import EULER, Students
from benchmarks.claims.toys import RING, even, finding, learn, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "MeanFlow on rectified trajectories"
CLAIM = "One reflow and MeanFlow on its pairs beat MeanFlow on the data, and flow distillation, at one step."


def measure(rng: bl.Rng) -> list[Finding]:
    students, (real, _) = Students(rng), even(RING, rng)
    wanted, euler = students.wanted, students.euler()
    from_data = students.made(MeanFlow(Objective(velocity=OfPair())))[1]
    with_teacher = students.made(MeanFlow())[1]
    method = RectifiedMeanFlow(bl.Sampler(24))
    flow = bl.Flow(students.start)
    with rng.fork("new").ambient():
        nets = method.networks(flow)
    pairs = method.data(flow, students.data, rng.fork("pairs"))
    kept = take(pairs, torch.nonzero(Nearest(0.9)(pairs))[:, 0])
    learn(nets["student"], method.objective(flow), kept, rng, students.steps, batch_size=128, peak=2e-3)
    student, sampler = method.student(flow, nets)
    rectified = sampler(student, students.test).detach()
    return [
        finding("one step, error to the exact ends: on pairs (figure) against on data", rmse(from_data, wanted),
                rmse(rectified, wanted), rmse(euler, wanted), EULER),
        finding("one step, W2: on pairs (figure) against on data", w2(from_data, real), w2(rectified, real),
                w2(euler, real), EULER),
        finding("one step, W2: on pairs (figure) against MeanFlow with the velocity of the exact teacher",
                w2(with_teacher, real), w2(rectified, real), w2(euler, real), EULER),
    ]  # fmt: skip
