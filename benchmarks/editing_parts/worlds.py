"""What edits are measured on: an exact distribution, and pictures with a trained flow and a classifier."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import beeline as bl
from beeline.config import build as config
from beeline.evaluation.edits.preservation import structure
from beeline.evaluation.features import SmallClassifier
from beeline.sampling.editing.outcome import Outcome, edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.guidance.guide import Plain
from beeline.solvers.runge_kutta import EULER
from benchmarks.editing_parts.exact import Exact, distance
from benchmarks.fewstep_parts import worlds

EVALUATIONS = 32  # of the network for a datum, at most
PROBE = 4  # steps of the run that counts the evaluations of a step
PLAIN = Plain()
ROUNDS = 3  # of the times of the network
TUNING = 40  # pictures by which settings may be chosen; figures are of the others


class World(Protocol):
    """Data with two conditions, a flow, and the figures of an edit."""

    flow: bl.Flow
    x: Tensor
    old: dict[str, Tensor] | Tensor
    new: dict[str, Tensor] | Tensor

    @property
    def described(self) -> dict[str, float]: ...

    def figures(self, edit: Any, sampler: bl.Sampler) -> dict[str, Any]: ...


def measure(world: World, text: str, solver: Any = EULER, guidance: Any = PLAIN) -> dict[str, Any]:
    """The figures of an edit with as many steps as the evaluations allow."""
    method = config.parse(text, "edits")
    few = slice(0, 2)
    probe = made(world, method, bl.Sampler(PROBE, solver=solver, guidance=guidance), few)
    steps = max(1, int(EVALUATIONS * PROBE / probe.evaluations + 0.01))
    sampler = bl.Sampler(steps, solver=solver, guidance=guidance)
    begin = time.process_time()
    outcome = made(world, method, sampler)
    spent = time.process_time() - begin
    forward = min(_forward(world) for _ in range(ROUNDS))
    return {
        "steps": steps,
        "evaluations": round(outcome.evaluations, 2),
        "overhead": round(spent / (outcome.evaluations * forward), 3),
        "change": float(f"{(outcome.x - world.x).abs().mean():.5g}"),
        **{k: float(f"{v:.5g}") for k, v in world.figures(outcome.x, sampler).items()},
    }


def made(
    world: World, method: Any, sampler: bl.Sampler, rows: slice = slice(None), region: Tensor | None = None
) -> Outcome:
    """The edit of some data."""
    x, old, new = world.x[rows], _rows(world.old, rows), _rows(world.new, rows)
    where = None if region is None else GivenRegion(region[rows])
    seeded = sampler.seeded(range(len(x)), 0)
    with torch.no_grad():
        return edited(method, world.flow, x, old, new, seeded, bl.Rng(0).fork("edit"), region=where)


def _rows(cond: Any, rows: slice) -> Any:
    return {k: v[rows] for k, v in cond.items()} if isinstance(cond, Mapping) else cond[rows]


def _forward(world: World) -> float:
    """Processor seconds of one evaluation for all data."""
    t = torch.full((len(world.x),), 0.5)
    begin = time.process_time()
    with torch.no_grad():
        for _ in range(4):
            world.flow.field(world.x, t, world.new)
    return (time.process_time() - begin) / 4


@dataclass(frozen=True, eq=False)
class ExactWorld:
    """Labelled mixtures, whose counterfactuals are known."""

    flow: bl.Flow
    x: Tensor
    old: Tensor
    new: Tensor
    truth: Tensor
    exact: Exact

    @property
    def described(self) -> dict[str, float]:
        return {"data": len(self.x), "evaluations": EVALUATIONS}

    def figures(self, x: Tensor, sampler: bl.Sampler) -> dict[str, Any]:
        """The mean distance to the exact counterfactuals, and the probability of the new label."""
        sure = self.exact.likelihood(x, self.new).mean()
        return {"distance": float(distance(x, self.truth).mean()), "success": float(sure)}


def exact(n: int) -> ExactWorld:
    known = Exact()
    batch = known.data(n, bl.Rng(0).fork("data"))
    old = batch.cond["label"] if isinstance(batch.cond, Mapping) else batch.cond
    new = (old + 1) % known.labels  # type: ignore[operator]
    truth = known.counterfactual(batch.x1, old, new)  # type: ignore[arg-type]
    return ExactWorld(known.flow, batch.x1, old, new, truth, known)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class PictureWorld:
    """Held-out pictures with labels, a trained flow, and a classifier that knows nothing of it."""

    flow: bl.Flow
    x: Tensor
    old: dict[str, Tensor]
    new: dict[str, Tensor]
    region: Tensor  # [N,1,H,W] the box around what is drawn, with a margin
    classifier: Any
    size: worlds.Size

    @property
    def described(self) -> dict[str, float]:
        found = {"data": len(self.x) - TUNING, "tuning": TUNING, "evaluations": EVALUATIONS}
        return {**found, "teacher_steps": self.size.teacher_steps, "classifier": self.size.classifier}

    def figures(self, x: Tensor, sampler: bl.Sampler) -> dict[str, Any]:
        """Success, distance outside the box and of structures; distances in the range of pixels."""
        tuning = {f"tuning_{name}": value for name, value in self.part(x, slice(0, TUNING)).items()}
        return {**self.part(x, slice(TUNING, None)), **tuning}

    def part(self, x: Tensor, rows: slice) -> dict[str, float]:
        """The figures of some of the pictures."""
        made, before, outside = x[rows], self.x[rows], 1 - self.region[rows]
        right = (self.classifier.classify(made) == self.new["label"][rows]).double()
        return {
            "success": float(right.mean()),
            "error": float(right.std() / len(right) ** 0.5),
            "outside": float(((made - before).abs() / 2 * outside).sum() / outside.sum().clamp(min=1)),
            "structure": float(structure(before, made).mean()),
        }


def pictures(name: str, given: worlds.Pictures, n: int, folder: Path, size: worlds.Size) -> PictureWorld:
    """Held-out pictures for choosing settings and ``n`` others, each to the label that is five further."""
    world = worlds.images(name, given, 0, folder, replace(size, samples=10))
    classifier = SmallClassifier(steps=size.classifier, size=size.features)
    fitted = classifier.fit(world.data.x1, world.data.cond, cache=folder)
    x, label = given.test[: TUNING + n], given.test_label[: TUNING + n]
    cond, new = {"label": label}, {"label": (label + 5) % 10}
    return PictureWorld(world.teacher, x, cond, new, boxes(x), fitted, size)


def boxes(x: Tensor, margin: int = 2) -> Tensor:
    """The box around what is brighter than black, with a margin, as 1 in [N,1,H,W]."""
    found = torch.zeros_like(x[:, :1])
    for i, picture in enumerate(x.amax(1) > -0.8):
        rows, columns = picture.nonzero().unbind(1)
        top, left = (max(0, int(v.min()) - margin) for v in (rows, columns))
        found[i, :, top : int(rows.max()) + margin + 1, left : int(columns.max()) + margin + 1] = 1
    return found
