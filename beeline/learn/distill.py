"""Distillation: a student flow from a teacher flow, as four answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import nn

from beeline.core.coupling import Coupling, Paired
from beeline.core.field import Flow
from beeline.core.rng import Rng
from beeline.core.solver import EULER
from beeline.core.times import At, TimeSampler, Uniform
from beeline.core.types import Batch, require, stack, take
from beeline.learn.objective import Distance, FlowMatching, squared
from beeline.learn.pairs import anchored, reflow_pairs
from beeline.learn.rows import RowMatching, groups_of, having, whole
from beeline.use.sampler import Sampler


class Distillation(Protocol):
    """What is trained, on which data, with which objective, and what comes out."""

    def networks(self, teacher: Flow) -> dict[str, nn.Module]: ...

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch: ...

    def objective(self, teacher: Flow) -> Any: ...

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]: ...


@dataclass(frozen=True)
class Reflow:
    """Learn the flow again on its own pairs: paths stop crossing, so that they become straight.

    x0 ~ source, x1 = sampler(teacher, x0);  min E |v(x_t, t, cond) - (x1 - x0)|^2 on the kept pairs
    Assumes pairs of an ODE, made with a fine sampler: its errors are learned.  The student has no score, because its
    coupling is not independent.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003).

    >>> Reflow(Sampler(8)).student(Flow(None), {"student": nn.Identity()})[0].independent
    False
    """

    sampler: Sampler = field(default_factory=lambda: Sampler(50))  # how pairs are made; guidance is learned with them
    count: int | None = None  # pairs; None is one for every datum (their conditions are those of the data)
    coupling: Coupling = field(
        default_factory=Paired
    )  # of the pairs; Annealed(0.5) mixes fresh noise into their sources
    times: TimeSampler = field(default_factory=Uniform)  # UShaped spends more where reflow is hard
    distance: Distance = squared
    reverse: float = 0.0  # share of pairs made backwards from real data, which anchors the student to them
    steps: int = 4  # of the student's own sampler

    def __post_init__(self) -> None:
        require(0 <= self.reverse <= 1, f"Reflow got reverse={self.reverse}; it is a share of the pairs: give 0 to 1")
        require(
            self.count is None or self.count >= 1,
            f"Reflow got count={self.count}; give a number of pairs from 1, or none",
        )

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": copied(teacher)}

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return teacher_pairs(self.sampler, self.count, self.reverse, teacher, batch, rng)

    def objective(self, teacher: Flow) -> FlowMatching:
        return matching(teacher, self.coupling, self.times, self.distance)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        return flow, Sampler(self.steps, solver=EULER)


@dataclass(frozen=True)
class OneStep:
    """Learn the whole jump from the source: one evaluation makes a datum.

    min E |x0 + v(x0, 0, cond) - x1|^2 on pairs of the teacher: reflow with all times at 0
    Assumes pairs of an ODE on a path that is the source itself at t = 0; a straight teacher is easier to follow.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), distillation; Liu et al. 2023, InstaFlow (arXiv 2309.06380).

    >>> OneStep().student(Flow(None), {"student": nn.Identity()})[1].evaluations
    1
    """

    sampler: Sampler = field(default_factory=lambda: Sampler(50))  # how pairs are made; guidance is learned with them
    count: int | None = None  # pairs; None is one for every datum
    distance: Distance = squared
    reverse: float = 0.0  # share of pairs made backwards from real data

    def __post_init__(self) -> None:
        require(0 <= self.reverse <= 1, f"OneStep got reverse={self.reverse}; it is a share of the pairs: give 0 to 1")
        require(
            self.count is None or self.count >= 1,
            f"OneStep got count={self.count}; give a number of pairs from 1, or none",
        )

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": copied(teacher)}

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return teacher_pairs(self.sampler, self.count, self.reverse, teacher, batch, rng)

    def objective(self, teacher: Flow) -> FlowMatching:
        return matching(teacher, Paired(), At(0.0), self.distance)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return replace(teacher, field=networks["student"], independent=False), Sampler(1, solver=EULER)


def copied(teacher: Flow) -> nn.Module:
    """The network of a teacher, copied to become a student."""
    require(
        isinstance(teacher.field, nn.Module),
        f"the teacher's field is a {type(teacher.field).__name__}, not a network; a student starts from a copy of its "
        "teacher: give a flow with a network, or networks of your own to fit(...)",
    )
    teacher.require_ode("a student")
    fixed = next((m for m in having(teacher.field, "prediction") if getattr(m.prediction, "fixes_ends", False)), None)
    require(
        fixed is None,
        "a student of a network with the prediction Boundary was asked for; the ends that it fixes are false for "
        "pairs: train the teacher with Velocity()",
    )
    made: nn.Module = copy.deepcopy(teacher.field)
    made.requires_grad_(True)
    return made


def matching(teacher: Flow, coupling: Coupling, times: TimeSampler, distance: Distance) -> FlowMatching:
    """The objective of a student on pairs: that of its teacher's kind of data."""
    if groups_of(teacher.field) is None:
        return FlowMatching(teacher.path, coupling, times, distance=distance)
    return RowMatching(teacher.path, coupling, times, distance=distance, known=0.0)  # the pairs have their known cells


def teacher_pairs(sampler: Sampler, count: int | None, reverse: float, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
    """Pairs for a student: forwards from the source, and a share backwards from the data."""
    groups = groups_of(teacher.field)
    if groups is not None and batch.cond is None and any(part.known for part in having(teacher.field, "known")):
        batch = RowMatching().reveal(batch, groups, rng.fork("known"))
    total = len(batch.x1) if count is None else count
    back = round(reverse * total)
    parts = []
    if total > back:
        some = batch
        if total - back != len(batch.x1):
            some = take(batch, rng.fork("conditions").integers(len(batch.x1), total - back).to(batch.x1.device))
        size = max(256, 2**18 // batch.x1[0].numel())
        pairs = reflow_pairs(teacher, sampler, some, rng.fork("pairs"), batch_size=size)
        parts.append(pairs if groups is None else whole(pairs, groups))
    if back:
        chosen = rng.fork("anchors").integers(len(batch.x1), back).to(batch.x1.device)
        parts.append(anchored(teacher, sampler, take(batch, chosen)))
    return replace(stack(parts), weight=None)
