"""Spectrograms of synthetic tones: a flow of some voices moved to another voice, from few or all of its recordings,
by bottlenecks, LoRA and a link at the input, with equal numbers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.delta import LoRA
from beeline.networks.branches.bottlenecks import Bottleneck, InputLink
from beeline.networks.dit import DiT
from benchmarks.claims.beside import loss, trained, with_part
from benchmarks.claims.controls import numbers
from benchmarks.claims.small_transformers import MATCHING
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "Small changes of transformers of spectrograms: bottlenecks against others"
CLAIM = "Bottlenecks are first with few recordings, and where more numbers are trained."
BINS, FRAMES, FEW, LAYERS = 16, 16, 16, ("qkv", "mix.out")


def spectrograms(rng: bl.Rng, n: int, low: float, fall: float, vibrato: float) -> Tensor:
    """Logarithmic magnitudes [n,1,bins,frames] in [-1, 1] of tones: harmonics of a gliding fundamental that fade."""
    start, glide, phase, onset = rng.fork("tones").uniform((4, n, 1, 1), torch.empty(()))
    time = torch.linspace(0, 1, FRAMES)
    pitch = low + 1.5 * start + 2 * (glide - 0.5) * time + vibrato * torch.sin(6.28 * (phase + 3 * time))
    bins = torch.arange(BINS)[:, None]
    loud = sum(fall**k * torch.exp(-((bins - (k + 1) * pitch) ** 2)) for k in range(4))
    heard = torch.sigmoid(20 * (time - 0.4 * onset)) * torch.exp(-1.5 * (time - 0.4 * onset).clamp(min=0))
    return ((loud * heard + 1e-2).log() / 2.31 + 1).clamp(-1, 1)[:, None]


def first(rng: bl.Rng) -> Tensor:
    """Recordings of low voices."""
    return spectrograms(rng.fork("first"), 1000, 2.0, 0.7, 0.2)


def other(rng: bl.Rng, n: int = 1000) -> Tensor:
    """Recordings of a higher voice with fewer harmonics and more vibrato."""
    return spectrograms(rng.fork("other"), n, 4.0, 0.4, 0.6)


@functools.cache
def base(seed: int) -> Any:
    """A flow of the low voices."""
    rng = bl.Rng(seed).fork("tones")
    with rng.fork("network").ambient():
        net = bl.Network(DiT((1, BINS, FRAMES), patch=4, width=32, depth=4, heads=2))  # 16 tokens
    return learn(net, MATCHING, bl.Batch(first(rng)), rng, steps=150, batch_size=64)


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    held, data = other(bl.Rng(seed).fork("held"), 500), other(rng)
    raw = loss(base(seed), seed, held)

    def moved(part: Any, n: int, layers: tuple[str, ...] = ()) -> tuple[float, int]:
        net = with_part(seed, part, layers, base(seed))
        count = numbers(net)
        return loss(trained(net, part, data[:n], bl.Rng(seed).fork("moved")), seed, held), count

    def row(name: str, figure: tuple[float, int], rival: tuple[float, int]) -> Finding:
        return finding(f"loss of another voice, {name}; {figure[1]} numbers against {rival[1]}", rival[0], figure[0],
                       raw, "not adapted")  # fmt: skip

    few = moved(Bottleneck(8), FEW)
    return [
        row(f"{FEW} recordings: bottleneck against LoRA", few, moved(LoRA(3), FEW, LAYERS)),
        row(f"{FEW} recordings: bottleneck against a link at the input", few, moved(InputLink(34), FEW)),
        row("1000 recordings: bottleneck of rank 32 against LoRA", moved(Bottleneck(32), 1000),
            moved(LoRA(12), 1000, LAYERS)),
        row(f"{FEW} recordings: after the feed against beside both parts", few, moved(Bottleneck(4, both=True), FEW)),
    ]  # fmt: skip
