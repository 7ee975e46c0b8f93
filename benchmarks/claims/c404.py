"""Tokens after the first three of the four blocks of a small transformer of the digits, in which one block that is
walked over depth in two equal steps takes their place: E |h_3 - h|^2 / E |h_3 - h_0|^2 on held-out digits, after 200
steps of training on the tokens of the teacher.  Its loss is that of the end of a walk from 0 to two random depths and
to 1 (flow walking), against flow matching between the paired tokens, against the last two of the three blocks left out,
and against a block that is evaluated once.  A step of Euler's method costs one block."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.transformer.backbone import FlowTransformer
from benchmarks.claims.small_transformers import digits as pictures
from benchmarks.claims.storing import digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Latent flow transformer: layers become one block that is walked over depth"
CLAIM = "Six layers of 24 in one block change the output less than two layers that are skipped."
STEPS, BATCH, LAST = 200, 64, 3  # blocks 0 .. LAST - 1 are replaced


class Walked(nn.Module):
    """u(h, depth) = block(h; e + depth embedding) - h."""

    def __init__(self, block: nn.Module, width: int):
        super().__init__()
        self.block = copy.deepcopy(block).requires_grad_(True)
        self.depth = nn.Linear(8, width)
        nn.init.zeros_(self.depth.weight)
        nn.init.zeros_(self.depth.bias)

    def forward(self, h: Tensor, depth: Tensor, told: tuple[Any, ...]) -> Tensor:
        e, layout = told
        waves = depth[:, None] * torch.pi * torch.arange(1, 5)
        e = e + self.depth(torch.cat([waves.sin(), waves.cos()], -1))
        return self.block(h, e, layout) - h

    def walk(self, h: Tensor, nodes: list[Tensor], told: tuple[Any, ...]) -> Tensor:
        """The end of Euler's method over depths [B]."""
        for a, b in zip(nodes, nodes[1:], strict=False):
            h = h + (b - a)[:, None, None] * self(h, a, told)
        return h

    def to_end(self, h: Tensor, told: tuple[Any, ...], steps: int) -> Tensor:
        return self.walk(h, [torch.full((len(h),), k / steps) for k in range(steps + 1)], told)


def ends(net: FlowTransformer, rng: bl.Rng, x1: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Tokens before and after the blocks that are replaced, and what blocks are given."""
    x0, t = rng.fork("noise").normal(x1), rng.fork("t").uniform(len(x1), x1)
    with torch.no_grad():
        h, told, _ = net.stages(x0 + t[:, None, None, None] * (x1 - x0), t)
        return h, functools.reduce(lambda y, k: net.block[k](y, *told[k]), range(LAST), h), told[0]


def learned(net: FlowTransformer, rng: bl.Rng, loss: Any) -> Walked:
    with rng.fork("start").ambient():
        made = Walked(net.block[1], 32)
    adam = torch.optim.Adam(made.parameters(), 2e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=STEPS, pct_start=0.1)
    x1 = pictures()[0].x1
    for step in range(STEPS):
        key = rng.fork("step", step)
        h0, h1, told = ends(net, key, x1[key.fork("rows").integers(len(x1), BATCH)])
        adam.zero_grad()
        loss(made, h0, h1, told, key).backward()
        adam.step()
        rates.step()
    return made


def walking(made: Walked, h0: Tensor, h1: Tensor, told: Any, rng: bl.Rng) -> Tensor:
    zero = torch.zeros(len(h0))
    a, b = rng.fork("depths").uniform(2 * len(h0), zero).view(2, -1).sort(0).values
    return (made.walk(h0, [zero, a, b, zero + 1], told) - h1).square().mean()


def matching(made: Walked, h0: Tensor, h1: Tensor, told: Any, rng: bl.Rng) -> Tensor:
    depth = rng.fork("depths").uniform(len(h0), h0)
    h = h0 + depth[:, None, None] * (h1 - h0)
    return (made(h, depth, told) - (h1 - h0)).square().mean()


def once(made: Walked, h0: Tensor, h1: Tensor, told: Any, rng: bl.Rng) -> Tensor:
    return (made.to_end(h0, told, 1) - h1).square().mean()


def measure(rng: bl.Rng) -> list[Finding]:
    net, _, _ = digits(rng.seed)
    h0, h1, told = ends(net, rng.fork("held"), pictures()[1].x1)

    @torch.no_grad()
    def error(h: Tensor) -> float:
        return float((h - h1).square().mean() / (h0 - h1).square().mean())

    walked, matched, single = (learned(net, rng.fork("fit"), loss) for loss in (walking, matching, once))
    with torch.no_grad():
        figure, flow, one = (error(m.to_end(h0, told, k)) for m, k in ((walked, 2), (matched, 2), (single, 1)))
        copied = error(Walked(net.block[1], 32).to_end(h0, told, 2))
        skipped = error(net.block[0](h0, *told))
    return [
        finding("flow walking (figure) against flow matching of tokens", flow, figure, copied, "a copy of a block"),
        finding("flow walking (figure) against two of three blocks left out", skipped, figure, max(copied, skipped),
                "no training"),
        finding("flow walking in two steps (figure) against the block once, equal weights", one, figure, copied,
                "a copy of a block"),
    ]  # fmt: skip
