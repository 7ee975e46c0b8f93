"""Shared by the claims about several deltas: a flow of the ring with classes, each of which moves to a place of its
own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import Delta, LoRA, changed_layers
from benchmarks.claims.deltas import SHIFT, STYLE
from benchmarks.claims.labelled import labelled_w2
from benchmarks.claims.subjects import CLASSES, LAW, base
from benchmarks.claims.toys import even, learn, noise, points, sample

Style = Callable[[Tensor, Tensor], Tensor]  # points [n,2] and their classes [n] -> points
STEPS, RATE = 150, 5e-3
OTHER = torch.tensor([[-0.4, 0.5], [0.5, 0.4]])


def two_styles(x: Tensor, label: Tensor) -> Tensor:
    """Classes 0 to 3 in one style, the others in another."""
    return torch.where((label < CLASSES // 2)[:, None], x @ STYLE.mT + SHIFT, x @ OTHER.mT - SHIFT)


def data(seed: int, style: Style, classes: Sequence[int] = range(CLASSES), n: int | None = None) -> bl.Batch:
    """Data of some classes in a style, at most ``n``."""
    batch: Any = points(bl.Rng(seed).fork("mixed"), LAW)
    rows = torch.isin(batch.cond["label"], torch.tensor(list(classes))).nonzero()[:n, 0]
    label = batch.cond["label"][rows]
    return bl.Batch(style(batch.x1[rows], label), cond={"label": label})


def with_delta(delta: Delta, seed: int, field: Any = None) -> Any:
    """The flow of the ring, or another field, with a delta in its blocks."""
    with bl.Rng(seed).fork("start", repr(delta)).ambient():
        return adapted(base(seed).field if field is None else field, delta)


def tune(field: Any, batch: bl.Batch, seed: int, steps: int = STEPS, rate: float = RATE) -> Any:
    """A field after training on data."""
    return learn(field, bl.objectives.FlowMatching(), batch, bl.Rng(seed).fork("tune"), steps=steps, peak=rate)


def expert(seed: int, style: Style, classes: Sequence[int], delta: Delta = LoRA(4), steps: int = STEPS) -> Any:
    """The flow with a delta that is trained on some classes in a style."""
    return tune(with_delta(delta, seed), data(seed, style, classes), seed, steps)


def whole(seed: int) -> Any:
    """The flow with all of its weights to be trained."""
    return copy.deepcopy(base(seed).field).requires_grad_(True)


def distance(field: Any, seed: int, style: Style, classes: Sequence[int] = range(CLASSES)) -> float:
    """W2 distance within the classes of samples (20 Heun steps) to points of the classes in a style."""
    rng = bl.Rng(seed).fork("tests of mixed")
    real, label = even(LAW, rng)
    rows = torch.isin(label, torch.tensor(list(classes)))
    real, label = style(real[rows], label[rows]), label[rows]
    x0 = noise(rng)[: len(real)]
    return labelled_w2(sample(field, x0, 20, {"label": label}, solver=bl.solvers.HEUN), real, label)


def shares(field: Any) -> list[Any]:
    """The changes of the layers of a field."""
    return [layer.changes[-1] for layer in changed_layers(field).values()]
