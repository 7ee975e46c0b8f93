"""Shared by the claims about mixers: small transformers with one token a pixel on digits of 8 x 8 pixels.

All networks of a claim have as many weights as the one with softmax attention, within a percent: the feeds are wider
where a mixer has fewer.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.data.image_files import Digits
from beeline.evaluation.metrics import SlicedWasserstein
from beeline.networks.dit import DiT
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import Attention
from benchmarks.claims.toys import finding, learn, sample
from benchmarks.claims.verdict import Finding

SIDE, WIDTH, HEADS = 8, 32, 2
SOFTMAX = Attention()
PLAIN = bl.objectives.FlowMatching()
MADE = 64  # samples
CLOSE = 1.05  # the loss of softmax attention, times this, is about the same


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Training and held-out digits [N,1,8,8]."""
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    first, second = (modality.encode(part).x1.float().reshape(-1, 1, SIDE, SIDE) for part in (raw, held))
    return first, second


def network(mixer: Any, rng: bl.Rng, shape: tuple[int, ...] = (1, SIDE, SIDE), **more: Any) -> DiT:
    """A network with one token a pixel, and as many weights as with softmax attention."""

    def made(mixer: Any, ratio: float, **more: Any) -> DiT:
        with rng.fork("network").ambient():
            return DiT(shape, **{"patch": 1, "width": WIDTH, "depth": 2, "heads": HEADS, "any_size": True, **more},
                       ratio=ratio, mixer=mixer)  # fmt: skip

    def count(net: DiT) -> int:
        return sum(p.numel() for p in net.parameters())

    wanted = count(made(SOFTMAX, 4.0, width=more.get("width", WIDTH)))
    low, high = (count(made(mixer, ratio, **more)) for ratio in (1.0, 2.0))
    return made(mixer, 1.0 + (wanted - low) / (high - low), **more)


def trained(mixer: Any, data: Tensor, rng: bl.Rng, steps: int = 80, batch: int = 64, **more: Any) -> Any:
    """A network after training on data [N,1,*sides], evaluating."""
    net = network(mixer, rng, tuple(data.shape[1:]), **more)
    return learn(net, PLAIN, bl.Batch(data), rng.fork("fit"), steps=steps, batch_size=batch)


def held_loss(net: Any, data: Tensor, rng: bl.Rng) -> float:
    """The loss on held-out data."""
    with torch.no_grad():
        return float(PLAIN(bl.Network(net), bl.Batch(data), rng.fork("test")).value)


def pair(mixer: Any, rng: bl.Rng, sequence: bool = False, batch: int = 64, **more: Any) -> tuple[Any, Any, Any]:
    """Networks of digits with softmax attention, with the mixer and before training; ``sequence`` has one axis."""
    data = digits()[0].flatten(2) if sequence else digits()[0]
    soft, figure = (trained(m, data, rng, batch=batch, **how) for m, how in ((SOFTMAX, {}), (mixer, more)))
    return soft, figure, network(SOFTMAX, rng, tuple(data.shape[1:])).eval()


def losses(nets: tuple[Any, Any, Any], rng: bl.Rng, better: bool = False) -> list[Finding]:
    """The held-out loss against that of softmax attention, or with 5 percent unless it has to be ``better``."""
    sequence = len(nets[0].shape) == 2
    held = digits()[1].flatten(2) if sequence else digits()[1]
    soft, figure, first = (held_loss(net, held, rng) for net in nets)
    if better:
        return [finding("held-out loss (figure) against softmax attention", soft, figure, first)]
    return [finding("held-out loss (figure) against softmax attention and 5 percent", CLOSE * soft, figure, first)]


def transfer(nets: tuple[Any, Any, Any], rng: bl.Rng) -> list[Finding]:
    """Samples of twice the trained size, as means of blocks of 2 x 2 pixels, against held-out digits."""
    real, x0 = digits()[1][:MADE], rng.fork("x0").normal(torch.empty(MADE, 1, 2 * SIDE, 2 * SIDE))
    soft, figure, first = (
        float(SlicedWasserstein()(real.flatten(1), torch.nn.functional.avg_pool2d(sample(net, x0, 10), 2).flatten(1),
                                  rng.fork("directions")))
        for net in nets
    )  # fmt: skip
    return [finding("distance of samples of 16 x 16 (figure) against softmax attention", soft, figure, first)]


Grids = tuple[tuple[int, ...], tuple[int, ...]]
IMAGES: Grids = ((32, 32), (64, 64))  # 1024 and 4096 tokens
SEQUENCES: Grids = ((1024,), (4096,))
FRAMES: Grids = ((16, 8, 8), (64, 8, 8))


def growth(mixer: Any, grids: Grids = IMAGES) -> list[Finding]:
    """How many times the seconds of the mixer grow with four times the tokens, against softmax attention."""
    soft, figure = (_growth(m, grids) for m in (SOFTMAX, mixer))
    compares = "seconds of 4096 tokens in those of 1024 (figure) against softmax attention"
    return [finding(compares, soft, figure, 16.0, trivial="all pairs of tokens")]


def _growth(mixer: Any, grids: Grids) -> float:
    seconds = []
    for grid in grids:
        with bl.Rng(0).ambient(), torch.no_grad():
            net, u = mixer.build(WIDTH, HEADS, grid), torch.randn(1, math.prod(grid), WIDTH)
            took = []
            for _ in range(6):
                begin = time.process_time()
                net(u, Layout(grid))
                took.append(time.process_time() - begin)
        seconds.append(min(took))
    return seconds[1] / seconds[0]
