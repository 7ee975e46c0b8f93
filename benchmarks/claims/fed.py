"""Shared by the claims about the parts of a transformer: digits of 8 x 8 pixels, a small network, its held-out loss.

Networks are compared after equal training; those with experts have the active hidden channels of the dense one.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.dit import DiT
from benchmarks.claims.toys import learn

PLAIN = bl.objectives.FlowMatching()
STEPS = 120


@functools.cache
def digits(labels: bool = False) -> tuple[bl.Batch, bl.Batch]:
    """Training and held-out digits, with their labels on request."""
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    made = [modality.encode(part) for part in (raw, held)]
    return tuple(bl.Batch(b.x1.float(), cond=b.cond if labels else None) for b in made)  # type: ignore[return-value]


def transformer(rng: bl.Rng, depth: int = 3, width: int = 32, heads: int = 2, **slots: Any) -> bl.Network:
    """A small transformer with fixed initial weights."""
    with rng.fork("network").ambient():
        return bl.Network(DiT((1, 8, 8), width=width, depth=depth, heads=heads, **slots))


def trained(
    net: Any, rng: bl.Rng, objective: Any = PLAIN, steps: int = STEPS, labels: bool = False, **more: Any
) -> Any:
    """The network after training on the digits."""
    return learn(net, objective, digits(labels)[0], rng.fork("net"), steps=steps, batch_size=32, **more)


def held_loss(net: Any, rng: bl.Rng, labels: bool = False) -> float:
    """The loss of flow matching on the held-out digits, with common noise and times."""
    with torch.no_grad():
        return float(PLAIN(net, digits(labels)[1], rng.fork("test")).value)


def count(net: torch.nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in net.parameters())
