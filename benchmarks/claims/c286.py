"""Videos of 8 frames of 8 x 8 pixels, in each of which one bright or dark square moves on a straight line, all 1296
lines between two of its places: mean distance in pixels, over frames, of its centre from the wanted line, for 4 lines,
64 samples each, drawn in 16 steps by the exact flow of these videos."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

import beeline as bl
from beeline.couplings.trajectory import Trajectory
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FreeTraj: trajectories in the noise"
CLAIM = "One patch of noise in the boxes of all frames leads an object along them, without training."
FRAMES, SIDE, BOX, COUNT = 8, 8, 3, 64
LINES = (((0, 0), (5, 5)), ((0, 5), (5, 0)), ((2, 0), (2, 5)), ((5, 3), (0, 2)))


def corners(first: tuple[int, int], last: tuple[int, int]) -> Tensor:
    """The upper left corner of the square in every frame [F,2]."""
    a, b = torch.tensor([first, last]).float()
    return a + (b - a) * torch.linspace(0, 1, FRAMES)[:, None]


@functools.cache
def videos() -> Tensor:
    """All videos [N,1,F,H,W]."""
    places = list(itertools.product(range(SIDE - BOX + 1), repeat=2))
    made = torch.zeros(len(places) ** 2, 1, FRAMES, SIDE, SIDE)
    for video, (first, last) in zip(made, itertools.product(places, repeat=2), strict=True):
        for frame, (r, c) in enumerate(corners(first, last).round().long().tolist()):
            video[0, frame, r : r + BOX, c : c + BOX] = 1
    return torch.cat([made, -made])


def exact() -> Callable[..., Tensor]:
    """The velocity of the flow from noise to the videos."""
    data = videos().flatten(1)
    power = data.square().sum(1)

    def field(x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        y, s = x.flatten(1), t[:, None]
        left = (1 - s).clamp(min=1e-3)
        weights = torch.softmax((s * (y @ data.T) - s * s * power / 2) / left.square(), 1)
        return ((weights @ data - y) / left).view_as(x)

    return field


def error(rng: bl.Rng, source: Callable[..., Trajectory], shift: int) -> float:
    """The mean distance from the lines, for noise that follows the line ``shift`` places further."""
    found = []
    for k, line in enumerate(LINES):
        boxes = tuple(
            (r / SIDE, c / SIDE, (r + BOX) / SIDE, (c + BOX) / SIDE) for r, c in LINES[(k + shift) % len(LINES)]
        )
        x0 = source(boxes).sample(torch.empty(COUNT, 1, FRAMES, SIDE, SIDE), rng.fork("noise", str(k)))
        x = bl.Sampler(16)(bl.Flow(exact(), source=source(boxes), independent=False), x0)
        bright, at = (x.abs() - 0.3).clamp(min=0)[:, 0], torch.arange(SIDE).float()
        mass = bright.sum((2, 3)).clamp(min=1e-9)
        centre = torch.stack([(bright.sum(3) * at).sum(2), (bright.sum(2) * at).sum(2)], -1) / mass[..., None]
        found.append((centre - corners(*line) - (BOX - 1) / 2).norm(dim=-1).mean())
    return float(torch.stack(found).mean())


def measure(rng: bl.Rng) -> list[Finding]:
    plain = error(rng, lambda boxes: Trajectory(), 0)
    wide = error(rng, lambda boxes: Trajectory(boxes, 1.0, 1.0), 0)
    other = error(rng, lambda boxes: Trajectory(boxes, 1.0, 1.0), 1)
    paper = error(rng, Trajectory, 0)
    return [
        finding("distance: frequencies of the patch up to the largest one (figure) against plain noise",
                plain, wide, other, "boxes of another line"),
        finding("distance: frequencies of the patch up to those of the paper (figure) against plain noise",
                plain, paper, other, "boxes of another line"),
    ]  # fmt: skip
