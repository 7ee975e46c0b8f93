"""Sequences of 16 frames with one bump at a random time, whose height is that of the label, and a small transformer
over frames. The edits act on self-attention among frames; attention between words and frames is not measured, as
the network knows no text."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

import beeline as bl
from beeline.sampling.editing.attention.sequences import SharedMaps, ShiftedMaps
from benchmarks.claims.attended import CONTROL, PLAIN, SAMPLER, learnt
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "MotionCLR: edits of attention maps"
CLAIM = "Shifts and replacements of attention maps shift and replace motions in time, without training."
SEEDS = 3
FRAMES, SHIFT, TESTED = 16, 3, 32
HEIGHTS = torch.tensor([1.0, 2.0, -2.0])


def motions(rng: bl.Rng, label: Tensor) -> tuple[Tensor, Tensor]:
    """[n,1,1,16] sequences with the heights of the labels, and the times of their bumps."""
    at = 3 + rng.fork("time").integers(7, len(label)).float()
    shape = torch.exp(-(torch.arange(FRAMES) - at[:, None]).square() / 3)
    x = HEIGHTS[label][:, None] * shape + 0.05 * rng.fork("noise").normal(torch.empty(len(label), FRAMES))
    return x[:, None, None], at


@functools.cache
def trained(seed: int) -> bl.Flow:
    rng = bl.Rng(seed).fork("motions")
    label = rng.fork("label").integers(3, 6000)
    return learnt(rng, motions(rng, label)[0], label, patch=1)


def centre(x: Tensor) -> Tensor:
    """The times of bumps: means over frames, weighted by squares."""
    w = x.flatten(1).square()
    return (w * torch.arange(FRAMES)).sum(1) / w.sum(1)


def measure(rng: bl.Rng) -> list[Finding]:
    flow, label = trained(rng.seed), torch.ones(TESTED, dtype=torch.long)
    (x, at), old, new = motions(rng.fork("test"), label), {"label": label}, {"label": 0 * label}
    made = lambda edit, to: edit(flow, x, old, to, SAMPLER, rng.fork("edit"))  # noqa: E731
    late = lambda y: float((centre(y) - at - SHIFT).abs().mean())  # noqa: E731
    away = lambda y: float((y - x / 2).square().mean().sqrt())  # noqa: E731 - of half the height
    with torch.no_grad():
        plain, shifted = made(PLAIN, old), made(ShiftedMaps(SHIFT, share=1.0), old)
        sampled, kept = made(PLAIN, new), made(SharedMaps(), new)
    return [
        finding("distance of the time of the bump to three frames later: shifted attention (figure) against none",
                late(plain), late(shifted), late(x), CONTROL),
        finding("distance to the same motion of half the height: maps of the source (figure) against invert and "
                "sample", away(sampled), away(kept), away(x), CONTROL),
    ]  # fmt: skip
