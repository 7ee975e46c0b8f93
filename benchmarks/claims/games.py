"""Shared by the claims about score games: a trained teacher on the ring, and students by a distillation.

Teachers and students are those of the seed, not of the claim, so that claims that are measured together share them.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.distillation.games.adversarial import LADD, SelfCooperative
from beeline.objectives.games.adversarial import Adversarial, GivenData
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks.claims.toys import RING, even, learn, network, noise, points

STEPS = 300  # of a student, with a batch of 128


def shared(rng: bl.Rng) -> bl.Rng:
    """The key of the seed."""
    return bl.Rng(rng.seed).fork("games")


@functools.cache
def teacher(rng: bl.Rng) -> bl.Flow:
    """A flow on the ring, trained on its points."""
    return bl.Flow(learn(network(rng), bl.objectives.FlowMatching(), points(rng), rng.fork("teacher"), steps=600))


@functools.cache
def test_set(rng: bl.Rng) -> tuple[Tensor, Tensor]:
    """Source points, and points of the distribution."""
    return noise(rng), even(RING, rng)[0]


def student(
    how: Any,
    flow: bl.Flow,
    rng: bl.Rng,
    steps: int = STEPS,
    data: Any = None,
    start: Any = None,
    peak: float = 1e-3,
) -> tuple[bl.Flow, bl.Sampler]:
    """The student of a distillation after so many steps of the training, with its sampler."""
    batch = points(rng, RING) if data is None else data
    training = Training(steps=steps, batch_size=128, lr=WarmupCosine(peak, 30), ema=None)
    nets = how.networks(flow if start is None else bl.Flow(start))
    made = fit(nets, how.objective(flow), how.data(flow, batch, rng.fork("data")), training,
               rng=rng.fork("student"), log=lambda entry: None)  # fmt: skip
    return how.student(flow, made)  # type: ignore[no-any-return]


@functools.cache
def usual(how: Any, rng: bl.Rng) -> tuple[bl.Flow, bl.Sampler]:
    """The student of the teacher of a seed, with the usual number of steps."""
    return student(how, teacher(rng), rng)


ZERO = "all samples at zero"
"""The control: noise itself is nearer to the ring than one step of its teacher."""


def made_by(how: Any, rng: bl.Rng) -> Tensor:
    """Samples of that student for the test set."""
    return drawn(usual(how, rng), test_set(rng)[0])


def drawn(made: tuple[bl.Flow, bl.Sampler], x0: Tensor, cond: Any = None) -> Tensor:
    """Samples of a student from source points."""
    flow, sampler = made
    return sampler(flow, x0, cond)


def modes(made: Tensor, law: Any = RING) -> float:
    """Share of the modes of a mixture that have at least half of their part of the samples."""
    parts = law.parts()
    nearest = torch.cdist(made.double(), parts.means).argmin(1)
    counts = torch.bincount(nearest, minlength=len(parts.means)).double() / len(made)
    return float((counts >= parts.weights / 2).double().mean())


OWN = SelfCooperative()
"""One step by a critic, with the student's own cleaner samples as the real ones."""


def given(how: SelfCooperative, flow: bl.Flow) -> Any:
    """The game of that method with the data as the real samples."""
    game = how.game(flow)
    assert game.adversarial is not None
    return replace(game, adversarial=replace(game.adversarial, real=GivenData()))


ONE_STEP_LADD = LADD(steps=1)
WITHOUT_R1 = LADD(steps=1, adversarial=Adversarial(weight=1.0, times=ONE_STEP_LADD.adversarial.times))
