"""Shared by the claims about sizes: a small transformer with rotary positions, trained on digits of 8 x 8 pixels.

Samples of 16 x 16 are compared with held-out digits of 8 x 8 as means of blocks of 2 x 2 pixels, by the sliced
Wasserstein distance.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.data.image_files import Digits
from beeline.evaluation.metrics import SlicedWasserstein
from beeline.networks.dit import DiT
from beeline.networks.transformer.positions import Rotary
from benchmarks.claims.toys import learn, sample

TRAINED, LARGE, STEPS = 8, 16, 20
TOKENS = (TRAINED // 2, TRAINED // 2)  # of the trained size


def rotating(scaling: Any = None) -> DiT:
    """A small diffusion transformer of images [B,1,H,W] of any size with rotary positions."""
    return DiT(
        (1, TRAINED, TRAINED), width=32, depth=3, heads=2, any_size=True, positions=Rotary(100.0, scaling=scaling)
    )


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Training and held-out digits [N,1,8,8]."""
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    first, second = (modality.encode(part).x1.float().reshape(-1, 1, TRAINED, TRAINED) for part in (raw, held))
    return first, second


@functools.cache
def fields(seed: int) -> tuple[nn.Module, nn.Module]:
    """A network after training, and an untrained one; the same for all claims of one seed."""
    rng = bl.Rng(seed).fork("sizes")
    with rng.fork("network").ambient():
        net, untrained = rotating(), rotating()
    made = learn(net, bl.objectives.FlowMatching(), bl.Batch(digits()[0]), rng, steps=800, batch_size=64)
    return made, untrained.eval()


def start(rng: bl.Rng, side: int) -> Tensor:
    """Noise [N,1,side,side] for as many samples as there are held-out digits."""
    return rng.fork("x0", side).normal(torch.empty(len(digits()[1]), 1, side, side))


def native(net: Any, rng: bl.Rng) -> Tensor:
    """Samples of the trained size."""
    return sample(net, start(rng, TRAINED), STEPS)


def halved(x: Tensor) -> Tensor:
    """Means of blocks of 2 x 2 pixels."""
    return nn.functional.avg_pool2d(x, 2)


def distance(made: Tensor, rng: bl.Rng) -> float:
    """Sliced Wasserstein distance of samples of the trained size to held-out digits."""
    real = digits()[1]
    return float(SlicedWasserstein()(real.flatten(1), made.flatten(1), rng.fork("directions")))
