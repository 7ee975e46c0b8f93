"""Shared by the claims about fewer blocks: students of two of the four blocks of a transformer of the digits."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from benchmarks.claims.small_transformers import digits

BATCH = 64


def student(
    small: nn.Module,
    whole: nn.Module,
    rng: bl.Rng,
    steps: int,
    *,
    pictures: int | None = None,  # of the training set
    output: float = 0.0,  # weight of the velocities of the whole network
    features: float = 0.0,  # weight of the tokens after the blocks ``taps`` of the whole network
    taps: Sequence[int] = (1, 3),
    rate: float = 2e-3,
) -> nn.Module:
    """A smaller network after training by flow matching, with terms of what the whole network computes.

    E |v - (x1 - x0)|^2 + output E |v - v_whole|^2 + features sum_j E |h_j - h_whole,taps(j)|^2
    """
    made = copy.deepcopy(small).requires_grad_(True).train()
    adam = torch.optim.Adam(made.parameters(), rate)
    rates = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps, pct_start=0.1)
    x1 = digits()[0].x1[:pictures]
    for step in range(steps):
        key = rng.fork("student", step)
        end = x1[key.fork("rows").integers(len(x1), BATCH)]
        start, t = key.fork("noise").normal(end), key.fork("t").uniform(BATCH, end)
        x = start + t[:, None, None, None] * (end - start)
        with tokens_after(made) as seen:
            v = made(x, t)
        loss = (v - (end - start)).square().mean()
        if output or features:
            with torch.no_grad(), tokens_after(whole) as wanted:
                target = whole(x, t)
            loss = loss + output * (v - target).square().mean()
            loss = loss + features * sum((h - wanted[j]).square().mean() for h, j in zip(seen, taps, strict=True))
        adam.zero_grad()
        loss.backward()
        adam.step()
        rates.step()
    return made.eval().requires_grad_(False)


@contextlib.contextmanager
def tokens_after(net: Any) -> Iterator[list[Tensor]]:
    """Context manager: the tokens after every block that is evaluated."""
    seen: list[Tensor] = []
    blocks = [m for stack in net.stacks.values() for m in stack]
    handles = [m.register_forward_hook(lambda _, __, out: seen.append(out)) for m in blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
