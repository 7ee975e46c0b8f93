"""Sliced Wasserstein distance to held-out digits at equal pixels in training and nearly equal pixels in sampling."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import beeline as bl
from beeline.data.image_files import Digits
from beeline.evaluation.metrics import SlicedWasserstein
from benchmarks.claims.toys import finding, learn, sample
from benchmarks.claims.verdict import Finding

METHOD = "Pyramidal flow matching"
CLAIM = "Most of the computation is at low resolution, with continuity across the stages."


class Conv(nn.Module):
    """A small convolutional field that takes any resolution."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.inp = nn.Conv2d(1, width, 3, padding=1)
        self.time = nn.Linear(16, width)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        wave = t[:, None] * torch.arange(1, 9) * torch.pi
        h = self.inp(x) + self.time(torch.cat([wave.sin(), wave.cos()], 1).to(x.dtype))[:, :, None, None]
        for layer in self.body:
            h = h + layer(nn.functional.silu(h))
        made: torch.Tensor = self.out(nn.functional.silu(h))
        return made


def measure(rng: bl.Rng) -> list[Finding]:
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    data = bl.Batch(modality.encode(raw).x1.float().reshape(-1, 1, 8, 8))
    real = modality.encode(held).x1.float().reshape(-1, 1, 8, 8)
    with rng.ambient():
        nets = Conv(), Conv(), Conv()
    pyramid = bl.paths.Pyramid((1.0, 0.5, 0.0))
    # a stage-0 pixel count is a quarter, so 1.6 times the steps cost the same pixels
    flat = learn(nets[0], bl.objectives.FlowMatching(), data, rng.fork("flat"), steps=300, batch_size=64)
    high = learn(nets[1], bl.objectives.PyramidMatching(pyramid), data, rng.fork("pyramid"), steps=480, batch_size=64)
    n = len(real)
    with torch.no_grad():
        one = sample(flat, rng.fork("x0").normal(real), 10)
        two, raw_net = (
            pyramid.sample(net, real, rng.fork("x0"), steps=8, solver=bl.solvers.EULER) for net in (high, nets[2])
        )
    error = [SlicedWasserstein()(real.reshape(n, -1), made.reshape(n, -1), rng) for made in (one, two, raw_net)]
    return [finding("two stages, 8 x 16 + 8 x 64 pixels (figure), against one, 10 x 64", *error)]  # fmt: skip
