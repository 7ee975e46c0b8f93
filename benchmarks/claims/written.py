"""Shared by the claims about guidance on digits of 8 x 8 pixels: a classifier, and what it says about samples."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

import beeline as bl
from beeline.data.image_files import Digits
from beeline.evaluation.features import SmallClassifier, Trained
from beeline.evaluation.metrics import Frechet
from beeline.networks.dit import DiT
from benchmarks.claims.toys import learn

CLASSES, TESTED = 10, 500


@functools.cache
def digits() -> tuple[bl.Batch, Tensor, Trained]:
    """Training digits [N,1,8,8] with labels, held-out digits, and a classifier trained on the former."""
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    data, real = modality.encode(raw), modality.encode(held)
    x, label = data.x1.float(), data.cond
    return bl.Batch(x, cond=label), real.x1.float(), SmallClassifier(steps=300).fit(x, label)


def start(rng: bl.Rng) -> tuple[Tensor, Tensor]:
    """Noise and the wanted labels of the samples."""
    return rng.fork("noise").normal(torch.empty(TESTED, 1, 8, 8)), torch.arange(TESTED) % CLASSES


def agreement(made: Tensor, label: Tensor) -> float:
    """The share of samples that the classifier gives their label."""
    return float((digits()[2].classify(made) == label).double().mean())


def distance(made: Tensor) -> float:
    """The Frechet distance to held-out digits in the features of the classifier."""
    return Frechet(digits()[2])(digits()[1], made, bl.Rng(0))


def transformer(rng: bl.Rng) -> bl.Network:
    """A small transformer under labels, untrained."""
    with rng.fork("transformer").ambient():
        conditions = {"label": {"classes": CLASSES}}
        return bl.Network(DiT((1, 8, 8), width=48, depth=3, heads=2, conditions=conditions))


def trained(rng: bl.Rng, dropped: float, steps: int = 700) -> bl.Network:
    """The transformer after training with a share of dropped labels."""
    drop = bl.objectives.Drop(dropped, CLASSES) if dropped else None
    objective, net = bl.objectives.FlowMatching(drop=drop), transformer(rng)
    made: bl.Network = learn(net, objective, digits()[0], rng.fork(dropped), steps, batch_size=64, peak=2e-3)
    return made
