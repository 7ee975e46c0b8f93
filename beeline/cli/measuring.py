"""What a report shows, gathered from bundles: figures at several evaluation counts, samples, trajectories, losses."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.config import build as config
from beeline.core.declared import is_map
from beeline.core.protocols.flows import Solver
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.couplings.basic import Independent
from beeline.data.translation import DatasetSource
from beeline.evaluation.evaluate import Extras, evaluate
from beeline.evaluation.heldout import HeldOut
from beeline.evaluation.metrics import Energy, SlicedWasserstein
from beeline.evaluation.scores import Report
from beeline.evaluation.trajectory import Likelihood, counted
from beeline.objectives.heads import settings_of
from beeline.objectives.matching import FlowMatching
from beeline.runs.bundle import Bundle
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import is_ode
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.spaces.manifold import Projected

COUNTS = (1, 2, 4, 8, 16, 32)


def sampler_for(evaluations: int, like: Sampler) -> Sampler:
    """A sampler with the schedule and guidance of ``like`` for a number of evaluations: EULER up to 3, HEUN beyond."""
    few = evaluations < 4
    solver: Solver = EULER if few else HEUN
    steps = evaluations if few else evaluations // 2
    if isinstance(like.solver, Projected):
        solver = replace(like.solver, solver=solver)
    return Sampler(steps, solver=solver, guidance=like.guidance)


def one_step(bundle: Bundle) -> bool:
    """Whether a bundle was made to be used in one evaluation, so that other times mean nothing to it."""
    return bundle.sampler.evaluations == 1


def metrics_of(bundle: Bundle) -> tuple[Any, ...]:
    """Scores that suit the data: those of their kind; none with labels, where evaluate() chooses by their number."""
    own = tuple(bundle.modality.metrics())
    if own or "label" in bundle.modality.conditions:
        return own
    return SlicedWasserstein(), Energy()


@dataclass(frozen=True)
class Real:
    """The data that flows are measured against, read once."""

    name: str
    raw: Any  # the training part, from which evaluators learn
    held: Any  # the held-out part

    @staticmethod
    def of(source: Any) -> Real:
        raw, held = source.load()
        return Real(f"held-out part of {source!r}", raw, held)


def measured(
    bundle: Bundle,
    real: Real,
    n: int,
    rng: Rng,
    *,
    sampler: Sampler | None = None,
    name: str = "",
    extras: Extras | None = None,
) -> Report:
    """Scores of a bundle against the held-out part of a data set; evaluators learn from the training part."""
    raw, held = real.raw, real.held
    held_out = None
    if extras is None:
        held_out = held_out_loss(bundle, raw, held)
        # of coordinates that are states the way and the density say nothing
        walked = is_ode(bundle.flow) and not one_step(bundle) and bundle.modality.continuous
        likely = Likelihood() if walked and bundle.flow.source.gaussian and told_by_data(bundle) else None
        extras = Extras(likelihood=likely) if walked else Extras(trajectories=None)
    return evaluate(
        bundle.flow,
        sampler or bundle.sampler,
        bundle.modality,
        held,
        n,
        rng,
        metrics_of(bundle),
        reference=raw,
        reference_name=real.name,
        cache=cache(),
        extras=extras,
        held_out=held_out,
        weights=weights_of(bundle),
        name=name,
    )


def weights_of(bundle: Bundle) -> str:
    """Which weights a bundle holds: an average by its name, or those of the last step."""
    if "average" not in bundle.lineage:
        return "as stored"
    average = bundle.lineage["average"]
    return "of the last step, not averaged" if average is None else f"averaged ({', '.join(map(str, flat(average)))})"


def flat(average: Mapping[str, Any]) -> list[Any]:
    """The name of an average and its settings."""
    return [average["is"], *(f"{key} {value}" for key, value in average.items() if key != "is")]


def labels_of(names: Sequence[str]) -> list[str]:
    """One label for each directory of a run or bundle: as few of its last folders as tell all of them apart."""
    parts = [[p for p in Path(name).parts if p != "bundle"] or [name] for name in names]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        made = ["/".join(p[-depth:]) for p in parts]
        if len(set(made)) == len(made):
            return made
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def told_by_data(bundle: Bundle) -> bool:
    """Whether the data have every condition that the network takes (guidance may add some of its own)."""
    return set(settings_of(bundle.flow.field).get("conditions") or {}) <= set(bundle.modality.conditions)


def held_out_loss(bundle: Bundle, raw: Any, held: Any) -> HeldOut | None:
    """The loss of flow matching on held-out data; none for a flow of other pairs, or told more than the data say.

    None for states either, which are learned by another loss.
    """
    flow, modality = bundle.flow, bundle.modality
    if not modality.continuous:
        return None
    if not told_by_data(bundle) or not flow.independent or not is_ode(flow) or is_map(flow.field):
        return None
    objective = FlowMatching(flow.path, Independent(flow.source))
    return HeldOut(objective, modality.encode(held), train=modality.encode(raw), rng=Rng(0).fork("held-out"))


def cache() -> Path:
    """Where trained evaluators are kept between calls."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "beeline" / "evaluators"


@dataclass(frozen=True)
class Look:
    """One model in a report."""

    name: str
    bundle: Bundle
    own: Report | None  # by the bundle's own sampler
    by_count: Mapping[float, Report]  # at each number of counted evaluations, the own sampler's among them
    samples: Mapping[float, Tensor]  # [n,*S] encoded, the same noise at each
    walks: Tensor | None  # [times, n, *S] trajectories of the same noise
    log: Sequence[Mapping[str, Any]]
    missing: Sequence[str] = ()  # what was not measured, and why


class Budget:
    """The time that a report may take: parts are measured in turn while there is some left.

    ``clock`` gives the time in the unit of ``limit``: seconds, or evaluations in a test.
    """

    def __init__(self, limit: float = math.inf, clock: Callable[[], float] = time.perf_counter):
        self.limit, self.clock, self.start = limit, clock, clock()

    @property
    def left(self) -> float:
        return self.limit - (self.clock() - self.start)

    @staticmethod
    def of_log(log: Sequence[Mapping[str, Any]], batch_size: int) -> Budget:
        """A tenth of the time that training took by its log, and at least ``LEAST`` seconds."""
        rates = [float(e["samples_per_second"]) for e in log if e.get("samples_per_second")]
        return Budget(max(LEAST, sum(batch_size / rate for rate in rates if rate > 0) / 10))


LEAST = 5.0  # seconds that a report may always take
FEWEST = 64  # samples below which nothing is measured


def look(
    name: str,
    bundle: Bundle,
    log: Sequence[Mapping[str, Any]],
    real: Real | None,
    n: int,
    rng: Rng,
    counts: Sequence[int] = COUNTS,
    budget: Budget | None = None,
    said: Callable[[str], None] = lambda _: None,
    *,
    exact: bool = False,
) -> Look:
    """Measure and draw one model with its own sampler, and at further evaluation counts while time is left.

    The number of samples is ``n`` if ``exact``, else what the time allows, the same for all counts.
    What cannot be measured becomes a sentence in ``missing``.  ``said`` is told what is done next.
    """
    budget = budget or Budget()
    samplers: dict[str, Sampler] = {"own": bundle.sampler}
    if is_ode(bundle.flow) and not one_step(bundle):  # no other sampler may be used otherwise
        spread = sorted(counts, key=lambda c: (c not in (min(counts), max(counts)), c))
        samplers |= {str(c): sampler_for(c, bundle.sampler) for c in spread if c != bundle.sampler.evaluations}
    own: Report | None = None
    reports: dict[float, Report] = {}
    samples: dict[float, Tensor] = {}
    missing: list[str] = []
    shown = 400 if tuple(bundle.modality.shape) == (2,) else 20  # a cloud of points, or a grid
    x0 = bundle.start(range(shown))
    cond = every_label(bundle, shown)
    if isinstance(bundle.flow.source, DatasetSource):  # data too, to be seen beside what becomes of them
        samples[0] = x0
    longest = 0.0  # what one count took
    for kind, sampler in samplers.items():
        first_one = kind == "own"
        if not first_one and budget.left < longest:
            missing.append(f"{name} at {kind} evaluations: the time for the report was over")
            continue
        said(f"{name}: {'its own sampler' if first_one else f'{kind} evaluations'}")
        begin = budget.clock()
        with attempt(f"{name}, {kind}", missing):
            with counted(bundle.flow, sampler) as (flow, same, counter):
                drawn = replace(bundle, flow=flow).draw(x0, cond, sampler=same)
            count = counter.rows / len(x0)
            samples[count] = drawn
            each = (budget.clock() - begin) / shown
            if first_one and not exact and each > 0 and budget.limit < math.inf:
                n = max(min(n, int(budget.left / 4 / each)), min(n, FEWEST))
            if real is not None:
                report = measured(
                    bundle,
                    real,
                    n,
                    rng,
                    sampler=sampler,
                    name=name,
                    extras=None if first_one and budget.left > longest else Extras(trajectories=None),
                )
                reports[count] = report
                own = report if first_one else own
        longest = max(longest, budget.clock() - begin)
    way: Tensor | None = None
    with attempt(f"{name}, trajectories", missing):
        way = walks(bundle, x0[:8], first(cond, 8))
    return Look(name, bundle, own, dict(sorted(reports.items())), dict(sorted(samples.items())), way, log, missing)


@contextmanager
def attempt(what: str, missing: list[str]) -> Iterator[None]:
    """A part of a report: what stops it becomes a sentence in ``missing``, and the rest goes on."""
    try:
        yield
    except Exception as error:
        missing.append(f"{what}: {' '.join(str(error).split()) or type(error).__name__}")


def walks(bundle: Bundle, x0: Tensor, cond: Cond) -> Tensor:
    """States along the trajectories of ``x0``, [times, n, *S]."""
    if not is_ode(bundle.flow):
        return x0[None]  # no curves in the space of the data
    seen: list[Tensor] = []
    sampler = Sampler(1, solver=EULER) if one_step(bundle) else Sampler(24, guidance=bundle.sampler.guidance)
    sampler(bundle.flow, x0, cond, watch=lambda x, t: seen.append(x.clone()))
    return torch.stack(seen)


def every_label(bundle: Bundle, n: int) -> Cond:
    """Conditions that go through the labels in turn; None for a model without a single label."""
    wanted = bundle.modality.conditions
    if set(wanted) != {"label"}:
        return bundle.condition(None, n)
    classes = wanted["label"]["classes"]
    labels: Cond = bundle.modality.condition([i % classes for i in range(n)], n)
    return labels


def first(cond: Cond, n: int) -> Cond:
    return map_cond(lambda leaf: leaf[:n], cond)


def data_of(bundle: Bundle) -> Any:
    """The data set that a bundle was trained on."""
    return config.build(bundle.lineage["data"])
