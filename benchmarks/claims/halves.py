"""Shared by claims about images with two conditions: two handwritten digits of 8 x 8 pixels side by side, each with its
own label, a small network that was trained with the labels dropped independently of each other, and the share of
halves that a logistic regression on digits reads as their label.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import beeline as bl
from beeline.core.declared import Declaring, Traits
from beeline.data.image_files import Digits
from beeline.networks.mlp import MLP
from benchmarks.claims.toys import learn

NULLS = {"left": 10, "right": 10}
TESTED = 300
STEPS = 12


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Images [N,1,8,8] and labels [N]."""
    raw, _ = Digits().load()
    encoded = Digits().modality().fit(raw).encode(raw)
    return encoded.x1.float().reshape(-1, 1, 8, 8), encoded.cond["label"]


@functools.cache
def reader() -> LogisticRegression:
    """A classifier of single digits."""
    images, labels = digits()
    return LogisticRegression(max_iter=300).fit(images.flatten(1).numpy(), labels.numpy())


def pairs(rng: bl.Rng, n: int = 20_000, contrast: float = 1.0, shuffled: str = "") -> bl.Batch:
    """Random pairs of digits; the right one has a contrast, the label ``shuffled`` is that of another digit."""
    images, labels = digits()
    index = rng.fork("pairs").integers(len(images), 2 * n).view(2, n)
    x = torch.cat([images[index[0]], contrast * images[index[1]]], 3)
    cond = {"left": labels[index[0]], "right": labels[index[1]]}
    return bl.Batch(x, cond={k: leaf.roll(1) if k == shuffled else leaf for k, leaf in cond.items()})


class Pixels(Declaring):
    """A residual network of all pixels of an image."""

    def __init__(self) -> None:
        super().__init__()
        classes = {"left": {"classes": 10}, "right": {"classes": 10}}
        self.inner = MLP(128, width=192, depth=3, conditions=classes)

    @property
    def traits(self) -> Traits:
        return self.inner.traits

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        return self.inner(x.flatten(1), t, cond).view_as(x)


def network(rng: bl.Rng) -> Any:
    """A small network with two labels and fixed initial weights."""
    with rng.fork("network").ambient():
        return bl.Network(Pixels())


def trained(rng: bl.Rng, data: bl.Batch, steps: int = 900) -> Any:
    """The network after training on pairs, every label dropped in one of five cases."""
    objective = bl.objectives.FlowMatching(drop=bl.objectives.Drop(0.2, NULLS, apart=True))
    return learn(network(rng), objective, data, rng, steps=steps, batch_size=128, peak=1e-3)


def sampled(net: Any, rng: bl.Rng, guidance: Any, cond: Any = None) -> tuple[Tensor, Any]:
    """Samples [N,1,8,16] with balanced pairs of labels, and these labels."""
    x0 = rng.fork("test").normal(torch.empty(TESTED, 1, 8, 16))
    n = torch.arange(TESTED)
    wanted = {"left": n % 10, "right": n // 10 % 10}
    sampler = bl.Sampler(STEPS, solver=bl.solvers.EULER, guidance=guidance)
    return sampler(bl.Flow(net, null=NULLS), x0, {**wanted, **(cond or {})}), wanted


def read(x: Tensor, wanted: Any, contrast: float = 1.0) -> tuple[float, float]:
    """Shares of left and right halves that are read as the wanted label."""
    halves = {"left": x[..., :8], "right": x[..., 8:] / contrast}
    found = {name: torch.as_tensor(reader().predict(half.flatten(1).numpy())) for name, half in halves.items()}
    return tuple(float((found[name] == wanted[name]).float().mean()) for name in ("left", "right"))  # type: ignore[return-value]


def distance(x: Tensor, data: bl.Batch, rng: bl.Rng) -> float:
    """Sliced Wasserstein-2 distance of images to real ones."""
    directions = rng.fork("directions").normal(torch.empty(x[0].numel(), 128))
    directions = directions / directions.norm(dim=0)
    made, real = ((part.flatten(1) @ directions).sort(0).values for part in (x, data.x1[: len(x)]))
    return float((made - real).square().mean().sqrt())
