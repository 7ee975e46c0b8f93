"""Shared by the claims about encoders of conditions: digits of 8 x 8 pixels under a vector of their class.

Vectors are fixed and random, so that the flow knows a class by its vector alone.  Classes of samples are those of the
nearest three training digits."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.mlp import MLP
from benchmarks.claims.toys import learn

SIZE, CLASSES = 16, 10
STEPS = 500  # of training
MATCHING = bl.objectives.FlowMatching()
TABLE = torch.nn.functional.normalize(bl.Rng(7).normal(torch.empty(CLASSES, SIZE)), dim=1) * SIZE**0.5


@functools.cache
def digits() -> tuple[bl.Batch, bl.Batch]:
    """Training and held-out digits [N,1,8,8] with their labels."""
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    made = [modality.encode(part) for part in (raw, held)]
    return made[0], made[1]


def labels(batch: bl.Batch) -> Tensor:
    assert isinstance(batch.cond, dict)
    return batch.cond["label"]


@functools.cache
def base(seed: int, number: int = 0) -> Any:
    """A flow of digits under the vector of their class; flows of other numbers start from other weights."""
    rng = bl.Rng(seed).fork("contexts", number)
    with rng.fork("network").ambient():
        net = bl.Network(MLP(shape=(1, 8, 8), width=128, depth=3, conditions={"context": {"size": SIZE}}))
    data = digits()[0]
    return learn(net, MATCHING, bl.Batch(data.x1, cond={"context": TABLE[labels(data)]}), rng, steps=STEPS)


def drawn(field: Any, cond: Any, rng: bl.Rng, n: int) -> Tensor:
    """Samples [n,1,8,8]."""
    return bl.Sampler(12)(bl.Flow(field), rng.fork("drawn").normal(torch.empty(n, 1, 8, 8)), cond)


def classes(x: Tensor) -> Tensor:
    """The classes of pictures by the nearest three training digits."""
    data = digits()[0]
    near = torch.cdist(x.flatten(1), data.x1.flatten(1)).topk(3, largest=False).indices
    return labels(data)[near].mode(1).values


def share(x: Tensor, label: Tensor) -> float:
    """The share of pictures of the wanted class."""
    return float((classes(x) == label).float().mean())


class Encoded(nn.Module):
    """A frozen flow whose condition another encoder gives, from cond["given"]; the encoder is trained."""

    def __init__(self, field: Any, encoder: nn.Module):
        super().__init__()
        self.field, self.encoder = copy.deepcopy(field).requires_grad_(False), encoder

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        out: Tensor = self.field(x, t, {"context": self.encoder(cond["given"])})
        return out

    def on(self, field: Any) -> Encoded:
        """The same encoder before another flow."""
        return Encoded(field, self.encoder)


def encoder_of(rng: bl.Rng, size: int, width: int = 64) -> nn.Module:
    """A small network from vectors to those of classes."""
    with rng.fork("encoder").ambient():
        return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                             nn.Linear(width, SIZE))  # fmt: skip
