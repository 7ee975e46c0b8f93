"""The ring with its exact field as teacher, and a trained network of it as the encoder: 400 steps of a consistency
trajectory model from one start, with data ends compared by its last features, by their squared difference, or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.distillation.maps.consistency import TraFlow
from beeline.objectives.losses.distances import Perceptual
from benchmarks.claims.maps import EULER, Students
from benchmarks.claims.toys import RING, even, finding, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "SoundCTM: consistency trajectories with features of the teacher"
CLAIM = "Features of the teacher itself are the distance of a trajectory model for one and several steps."


class LastFeatures(nn.Module):
    """The features of a network before its last layer, at a time near the data."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        h, told, _ = self.network.backbone.stages(x, torch.full((len(x),), 0.9), None)
        for block, modulation in zip(self.network.backbone.block, told, strict=False):
            h = block(h, *modulation)
        return h  # type: ignore[no-any-return]


def measure(rng: bl.Rng) -> list[Finding]:
    students, (real, _) = Students(rng), even(RING, rng)
    features = Perceptual(LastFeatures(students.start).requires_grad_(False), plain=0.0)
    made = [students.made(method, (1, 2)) for method in (TraFlow(strength=0.0), TraFlow(), TraFlow(distance=features))]
    euler = students.euler()
    return [
        finding("one step, error to the exact ends: features (figure) against no comparison of data ends",
                rmse(made[0][1], students.wanted), rmse(made[2][1], students.wanted),
                rmse(euler, students.wanted), EULER),
        *(
            finding(f"{n} steps, W2: features (figure) against squared differences", w2(made[1][n], real),
                    w2(made[2][n], real), w2(euler, real), EULER)
            for n in (1, 2)
        ),
    ]  # fmt: skip
