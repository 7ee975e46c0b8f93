"""Recipes for signals and for images of numbers in any range."""

from __future__ import annotations

import math
from collections.abc import Sequence

from beeline.data.signals.array_files import ArrayFile
from beeline.objectives.matching import Drop, FlowMatching
from beeline.runs.run import Run
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training
from beeline.training.optim.learning_rate import WarmupConstantCooldown

ATTENDED = 2048  # positions of the second level, up to which a U-Net attends between the positions of its coarsest


def arrays(path: str = "arrays.npy") -> Run:
    """Signals [N,C,L] or images [N,C,H,W] of a .npy or .npz file, numbers in any range, with a U-Net.

    >>> arrays("ecg.npy").data.path
    'ecg.npy'
    """
    return Run(
        data=ArrayFile(path),
        network={"is": "networks.UNet", "width": 64, "multipliers": [1, 2, 2], "blocks": 2},
        objective=FlowMatching(drop=Drop(0.1)),  # of labels, if there are any
        training=Training(steps=20_000, batch_size=64, lr=WarmupConstantCooldown(peak=5e-4, warmup=500)),
        sampler=Sampler(25),
    )


def attends(sizes: Sequence[int]) -> bool:
    """Whether a U-Net on data of these sizes, without the channels, can afford attention."""
    return math.prod(-(-n // 2) for n in sizes) <= ATTENDED
