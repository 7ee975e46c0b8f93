"""Shared by the claims about parts of transformers: digits of 8 x 8 pixels in patches of 2 x 2, without labels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.dit import DiT, UViT
from benchmarks.claims.toys import learn

MATCHING = bl.objectives.FlowMatching()
STEPS = 100  # of training


@functools.cache
def digits() -> tuple[bl.Batch, bl.Batch]:
    """Training and held-out digits [N,1,8,8]."""
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    first, second = (bl.Batch(modality.encode(part).x1.float().reshape(-1, 1, 8, 8)) for part in (raw, held))
    return first, second


def transformer(rng: bl.Rng, kind: Any = DiT, **slots: Any) -> bl.Network:
    """A small transformer with fixed initial weights."""
    sizes = {"patch": 2, "width": 32, "depth": 4, "heads": 2}
    with rng.fork("network").ambient():
        return bl.Network(kind((1, 8, 8), **{**sizes, **slots}))


def trained(net: Any, rng: bl.Rng, objective: Any = MATCHING, steps: int = STEPS) -> Any:
    """The network after training on digits."""
    return learn(net, objective, digits()[0], rng.fork("training"), steps=steps, batch_size=64)


@functools.cache
def plain(seed: int, depth: int = 4) -> bl.Network:
    """A network without changed parts, after training: the same for all claims of one seed."""
    rng = same(bl.Rng(seed))
    return trained(transformer(rng, depth=depth), rng)


@functools.cache
def skipping(seed: int) -> bl.Network:
    """A network with two long skips after twice the training: the same for all claims of one seed."""
    rng = same(bl.Rng(seed))
    return trained(transformer(rng, UViT), rng, steps=2 * STEPS)


def same(rng: bl.Rng) -> bl.Rng:
    """The key of all claims of one seed: networks start from it, and see the same batches."""
    return bl.Rng(rng.seed).fork("small transformers")


def heldout(net: Any, rng: bl.Rng, low: float = 0.0, high: float = 1.0) -> float:
    """The loss of held-out digits at times between two, with fixed noise."""
    x1 = digits()[1].x1
    x0, u = rng.fork("held").normal(x1), rng.fork("at").uniform(len(x1), x1)
    t = low + (high - low) * u
    with torch.no_grad():
        v = net(x0 + t[:, None, None, None] * (x1 - x0), t)
    return float((v - (x1 - x0)).square().mean())


def energy_distance(made: Tensor, real: Tensor) -> float:
    """The energy distance of two sets of samples, 2 E|x - y| - E|x - x'| - E|y - y'|, without pairs of one sample."""
    a, b = made.flatten(1).double(), real.flatten(1).double()
    n, m = len(a), len(b)
    cross, own, other = (torch.cdist(x, y).sum() for x, y in ((a, b), (a, a), (b, b)))
    return float(2 * cross / (n * m) - own / (n * (n - 1)) - other / (m * (m - 1)))


def start(rng: bl.Rng, n: int = 360) -> Tensor:
    """Noise for samples."""
    return rng.fork("x0").normal(torch.empty(n, 1, 8, 8))
